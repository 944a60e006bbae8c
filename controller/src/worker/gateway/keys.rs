//! The gateways' keys: made once, kept in one Secret, never overwritten.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use rand::TryRngCore;
use rand::rngs::OsRng;
use slicewire_api::labels::{MANAGED_BY, OF_SLICE, WORKER_MANAGER};
use slicewire_core::name::{Lane, SliceName, gateway_key_secret};
use x25519_dalek::{PublicKey, StaticSecret};

use super::observe::Observed;
use crate::kubernetes::change::owned_by;
use crate::kubernetes::write::causes;
use crate::worker::{Worker, ours};

/// Public keys by lane.
pub(super) type Keys = BTreeMap<Lane, [u8; 32]>;

/// Keys could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// The Secret cannot be read or written.
    #[error("Secret {0}: {cause}", cause = causes(.1))]
    Secret(String, kube::Error),
    /// The machine has no randomness.
    #[error("no randomness from the kernel: {0}")]
    Random(rand::rand_core::OsError),
    /// An entry of the Secret is no key.
    #[error("Secret {0}: entry {1} is not 32 bytes in base64; delete the Secret to get new keys")]
    Damaged(String, String),
}

/// Sees that every lane has a key, and returns the public ones.
pub(super) async fn ensure(
    worker: &Worker,
    slice: &str,
    observed: &Observed,
) -> Result<Keys, KeyError> {
    let Some(gateway) = observed.plan() else { return Ok(Keys::new()) };
    let Ok(name) = SliceName::parse(slice) else { return Ok(Keys::new()) };
    if gateway.spec.lanes.is_empty() {
        return Ok(Keys::new());
    }
    let secret_name = gateway_key_secret(&name);
    let api: Api<Secret> = ours(&worker.writer.client, &worker.namespace);
    let fault = |error| KeyError::Secret(secret_name.clone(), error);
    let found = api.get_opt(&secret_name).await.map_err(fault)?;
    let lanes: Vec<Lane> = gateway.spec.lanes.iter().map(|l| l.lane).collect();
    let mut data = found.as_ref().and_then(|s| s.data.clone()).unwrap_or_default();
    let missing: Vec<Lane> =
        lanes.iter().copied().filter(|l| !data.contains_key(&entry(*l))).collect();
    if missing.is_empty() {
        return public(&secret_name, &data, &lanes);
    }
    for lane in missing {
        data.insert(entry(lane), ByteString(fresh()?.into_bytes()));
    }
    let how = PostParams { field_manager: Some(WORKER_MANAGER.into()), ..PostParams::default() };
    let written = match found {
        // `replace` fails when somebody wrote the Secret since: no key is ever overwritten.
        Some(secret) => {
            let secret = Secret { data: Some(data), ..secret };
            api.replace(&secret_name, &how, &secret).await
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(secret_name.clone()),
                labels: Some(BTreeMap::from([
                    (MANAGED_BY.to_owned(), WORKER_MANAGER.to_owned()),
                    (OF_SLICE.to_owned(), slice.to_owned()),
                ])),
                owner_references: owned_by(gateway).map(|o| vec![o]),
                ..ObjectMeta::default()
            };
            let secret = Secret { metadata, data: Some(data), ..Secret::default() };
            api.create(&how, &secret).await
        }
    };
    let data = written.map_err(fault)?.data.unwrap_or_default();
    tracing::info!(%slice, "made keys for the gateways");
    public(&secret_name, &data, &lanes)
}

fn entry(lane: Lane) -> String {
    format!("lane-{lane}")
}

/// A private key (RFC 7748) as `wg genkey` prints it.
fn fresh() -> Result<String, KeyError> {
    let mut bytes = [0; 32];
    OsRng.try_fill_bytes(&mut bytes).map_err(KeyError::Random)?;
    // Clamped as `wg genkey` does, so that every tool shows the same key.
    bytes[0] &= 248;
    bytes[31] = (bytes[31] & 127) | 64;
    Ok(STANDARD.encode(bytes))
}

fn public(
    name: &str,
    data: &BTreeMap<String, ByteString>,
    lanes: &[Lane],
) -> Result<Keys, KeyError> {
    let key = |lane: &Lane| {
        let entry = entry(*lane);
        let damaged = || KeyError::Damaged(name.to_owned(), entry.clone());
        let text = data.get(&entry).ok_or_else(damaged)?;
        let bytes = STANDARD.decode(text.0.trim_ascii()).map_err(|_| damaged())?;
        let private: [u8; 32] = bytes.try_into().map_err(|_| damaged())?;
        Ok((*lane, PublicKey::from(&StaticSecret::from(private)).to_bytes()))
    };
    lanes.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_key_is_clamped_and_its_public_half_is_found() {
        let text = fresh().unwrap();
        let bytes = STANDARD.decode(&text).unwrap();
        assert_eq!((bytes.len(), bytes[0] & 7, bytes[31] & 0xc0), (32, 0, 64));
        let data = BTreeMap::from([("lane-0".to_owned(), ByteString(text.into_bytes()))]);
        assert_eq!(public("s", &data, &[0]).unwrap().len(), 1);
        assert_ne!(fresh().unwrap(), fresh().unwrap());
    }

    #[test]
    fn a_known_pair() {
        // RFC 7748, section 6.1: Alice's keys.
        let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        let wanted = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let data =
            BTreeMap::from([("lane-3".to_owned(), ByteString(format!("{private}\n").into()))]);
        assert_eq!(STANDARD.encode(public("s", &data, &[3]).unwrap()[&3]), wanted);
    }

    #[test]
    fn a_damaged_entry_is_named() {
        let data = BTreeMap::from([("lane-0".to_owned(), ByteString("short".into()))]);
        assert!(matches!(public("s", &data, &[0]), Err(KeyError::Damaged(_, e)) if e == "lane-0"));
    }
}
