//! The gateways' keys: made once a generation, kept in one Secret, never overwritten, and deleted
//! when another generation is the only one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::Vacant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use rand::TryRngCore;
use rand::rngs::OsRng;
use slicewire_api::labels::{MANAGED_BY, OF_SLICE, WORKER_MANAGER};
use slicewire_api::{OwnExchange, PeerExchange, SliceGateway};
use slicewire_core::name::{
    ClusterName, Lane, SliceName, gateway_key_entry, gateway_key_secret, key_exchange_secret,
    preshared_key_entry,
};
use slicewire_core::rotation::Generation;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::exchange::{Ends, Exchange, Refused};
use super::observe::Observed;
use crate::kubernetes::change::owned_by;
use crate::kubernetes::write::{causes, status_code};
use crate::worker::{Worker, ours};

/// Public keys by lane.
pub(super) type PublicKeys = BTreeMap<Lane, [u8; 32]>;

/// What others may know of the keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Keys {
    /// Of the generation that all have.
    pub(super) current: PublicKeys,
    /// Of the next one, while keys are renewed.
    pub(super) next: PublicKeys,
    pub(super) exchange: Option<OwnExchange>,
}

type Entries = BTreeMap<String, ByteString>;

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
    /// No key for the exchange of pre-shared keys.
    #[error(transparent)]
    Exchange(#[from] Refused),
}

/// Sees that every lane has a key of every open generation, and that tunnels of the next one get
/// pre-shared keys; returns what others may know.
pub(super) async fn ensure(
    worker: &Worker,
    slice: &str,
    observed: &Observed,
) -> Result<Keys, KeyError> {
    let Some(gateway) = observed.plan() else { return Ok(Keys::default()) };
    let Ok(name) = SliceName::parse(slice) else { return Ok(Keys::default()) };
    if gateway.spec.lanes.is_empty() {
        return Ok(Keys::default());
    }
    let secrets = Secrets { api: ours(&worker.writer.client, &worker.namespace), gateway };
    let secret_name = gateway_key_secret(&name);
    let found = secrets.read(&secret_name).await?;
    let before = found.as_ref().and_then(|s| s.data.clone()).unwrap_or_default();
    let lanes: Vec<Lane> = gateway.spec.lanes.iter().map(|l| l.lane).collect();
    let (current, next) = (gateway.spec.generation, gateway.spec.next_generation);
    let mut data = before.clone();
    let mut public = Keys::default();
    complete(&mut data, &lanes, current)?;
    public.current = self::public(&secret_name, &data, &lanes, current)?;
    if let Some(next) = next {
        complete(&mut data, &lanes, next)?;
        public.next = self::public(&secret_name, &data, &lanes, next)?;
        let told = observed.told.iter().filter(|told| told.spec.next_generation == Some(next));
        let peers: Vec<PeerExchange> = told.flat_map(|t| t.spec.exchange.clone()).collect();
        let exchange = secrets.exchange(&name, next, &peers).await?;
        agree(&mut data, &name, gateway, &public.next, &exchange, &peers);
        public.exchange = Some(exchange.told());
    }
    let old: Vec<String> =
        data.keys().filter(|entry| !of_open(entry, current, next)).cloned().collect();
    if next.is_none() && !old.is_empty() {
        // First, so that it is done again if this is as far as it comes.
        secrets.delete(&key_exchange_secret(&name)).await?;
    }
    data.retain(|entry, _| !old.contains(entry));
    if data != before {
        secrets.write(&secret_name, found, data).await?;
        tracing::info!(%slice, generation = next.unwrap_or(current), "wrote the gateways' keys");
    }
    Ok(public)
}

/// Makes the keys that a generation lacks.
fn complete(data: &mut Entries, lanes: &[Lane], generation: Generation) -> Result<(), KeyError> {
    for lane in lanes {
        let entry = gateway_key_entry(*lane, generation);
        if let Vacant(lacking) = data.entry(entry) {
            lacking.insert(ByteString(fresh()?.into_bytes()));
        }
    }
    Ok(())
}

/// Writes the pre-shared keys of tunnels for which both ends have said what it takes, each beside
/// the two public keys that it is for.
fn agree(
    data: &mut Entries,
    slice: &SliceName,
    gateway: &SliceGateway,
    own: &PublicKeys,
    exchange: &Exchange,
    peers: &[PeerExchange],
) {
    for lane in &gateway.spec.lanes {
        let Some(own) = own.get(&lane.lane).map(|key| STANDARD.encode(key)) else { continue };
        for tunnel in &lane.tunnels {
            let peer = peers.iter().find(|p| p.cluster == tunnel.cluster);
            let (Some(peer), Some(next), Ok(name)) =
                (peer, &tunnel.next, ClusterName::parse(&tunnel.cluster))
            else {
                continue;
            };
            let theirs = next.public_key.as_str();
            let ends = Ends { own: (&gateway.spec.cluster, &own), peer: (name.as_str(), theirs) };
            let Some(key) = exchange.preshared_key(slice, lane.lane, ends, peer) else { continue };
            let key = Zeroizing::new(STANDARD.encode(key.as_slice()));
            let entry = preshared_key_entry(lane.lane, exchange.generation, name.as_str());
            let text = format!("{own} {theirs} {}\n", key.as_str());
            data.insert(entry, ByteString(text.into_bytes()));
        }
    }
}

/// Whether an entry is of an open generation, or none of ours.
fn of_open(entry: &str, current: Generation, next: Option<Generation>) -> bool {
    let open = |generation: Generation| generation == current || Some(generation) == next;
    let lane = |text: &str| text.parse::<Lane>().is_ok();
    if let Some(rest) = entry.strip_prefix("lane-") {
        return match rest.split_once("-generation-") {
            None => !lane(rest) || open(0),
            Some((_, number)) => number.parse().map_or(true, open),
        };
    }
    let numbered = entry.strip_prefix("psk-").and_then(|rest| rest.split_once("-generation-"));
    let number = numbered.and_then(|(_, rest)| rest.split_once('-')?.0.parse().ok());
    number.is_none_or(open)
}

/// The Secrets of a slice's gateways, as the API server has them: no cache holds private keys.
struct Secrets<'a> {
    api: Api<Secret>,
    gateway: &'a SliceGateway,
}

impl Secrets<'_> {
    async fn read(&self, name: &str) -> Result<Option<Secret>, KeyError> {
        self.api.get_opt(name).await.map_err(|error| KeyError::Secret(name.to_owned(), error))
    }

    /// Writes under the condition that nobody wrote the Secret since: no key is ever overwritten.
    async fn write(
        &self,
        name: &str,
        found: Option<Secret>,
        data: Entries,
    ) -> Result<(), KeyError> {
        let how =
            PostParams { field_manager: Some(WORKER_MANAGER.into()), ..PostParams::default() };
        let written = match found {
            Some(secret) => {
                let secret = Secret { data: Some(data), ..secret };
                self.api.replace(name, &how, &secret).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(name.to_owned()),
                    labels: Some(BTreeMap::from([
                        (MANAGED_BY.to_owned(), WORKER_MANAGER.to_owned()),
                        (OF_SLICE.to_owned(), self.gateway.spec.slice.clone()),
                    ])),
                    owner_references: owned_by(self.gateway).map(|o| vec![o]),
                    ..ObjectMeta::default()
                };
                let secret = Secret { metadata, data: Some(data), ..Secret::default() };
                self.api.create(&how, &secret).await
            }
        };
        written.map(drop).map_err(|error| KeyError::Secret(name.to_owned(), error))
    }

    async fn delete(&self, name: &str) -> Result<(), KeyError> {
        match self.api.delete(name, &DeleteParams::default()).await {
            Err(error) if status_code(&error) != Some(404) => {
                Err(KeyError::Secret(name.to_owned(), error))
            }
            _ => Ok(()),
        }
    }

    /// This cluster's part of the exchange, with an answer to every peer, written before it is told.
    async fn exchange(
        &self,
        slice: &SliceName,
        generation: Generation,
        peers: &[PeerExchange],
    ) -> Result<Exchange, KeyError> {
        let name = key_exchange_secret(slice);
        let found = self.read(&name).await?;
        let there = found.as_ref().and_then(|s| Exchange::read(s.data.as_ref()?, generation));
        let (mut exchange, new) = match there {
            Some(exchange) => (exchange, false),
            None => (Exchange::fresh(generation)?, true),
        };
        if exchange.answer(peers) || new {
            self.write(&name, found, exchange.write()).await?;
        }
        Ok(exchange)
    }
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
    data: &Entries,
    lanes: &[Lane],
    generation: Generation,
) -> Result<PublicKeys, KeyError> {
    let key = |lane: &Lane| {
        let entry = gateway_key_entry(*lane, generation);
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
        assert_eq!(public("s", &data, &[0], 0).unwrap().len(), 1);
        assert_ne!(fresh().unwrap(), fresh().unwrap());
    }

    #[test]
    fn a_known_pair() {
        // RFC 7748, section 6.1: Alice's keys.
        let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        let wanted = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let data =
            BTreeMap::from([("lane-3".to_owned(), ByteString(format!("{private}\n").into()))]);
        assert_eq!(STANDARD.encode(public("s", &data, &[3], 0).unwrap()[&3]), wanted);
    }

    #[test]
    fn a_damaged_entry_is_named() {
        let data = BTreeMap::from([("lane-0".to_owned(), ByteString("short".into()))]);
        assert!(
            matches!(public("s", &data, &[0], 0), Err(KeyError::Damaged(_, e)) if e == "lane-0")
        );
    }

    #[test]
    fn entries_go_with_their_generation() {
        let open = |entry: &str| of_open(entry, 3, Some(4));
        for entry in ["lane-0-generation-3", "lane-7-generation-4", "psk-0-generation-4-west"] {
            assert!(open(entry), "{entry}");
        }
        for entry in ["lane-0", "lane-1-generation-2", "psk-0-generation-2-west-4"] {
            assert!(!open(entry), "{entry}");
        }
        assert!(of_open("lane-0", 0, None) && open("somebody's"));
    }

    #[test]
    fn keys_that_are_there_are_kept_and_missing_ones_made() {
        let mut data = Entries::new();
        complete(&mut data, &[0, 1], 0).unwrap();
        let before = data.clone();
        complete(&mut data, &[0, 1], 0).unwrap();
        assert_eq!(data, before);
        complete(&mut data, &[0, 1], 1).unwrap();
        assert_eq!(data.len(), 4);
        assert_ne!(public("s", &data, &[0], 0).unwrap(), public("s", &data, &[0], 1).unwrap());
    }
}
