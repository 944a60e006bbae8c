//! The keys that the worker controller has put into the pod: private keys by lane and generation,
//! and pre-shared keys by tunnel.
//!
//! A pre-shared key is written beside the two public keys that it was agreed on for, and used for
//! these only: both ends have it or neither, also when one of them has lost its keys and made new
//! ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use slicewire_core::name::{Lane, gateway_key_entry, preshared_key_entry};
use slicewire_core::rotation::Generation;
use slicewire_engine::{PresharedKey, PrivateKey, PublicKey};

/// The directory they are in.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    dir: PathBuf,
    lane: Lane,
}

impl Keys {
    pub(super) fn new(dir: PathBuf, lane: Lane) -> Self {
        Self { dir, lane }
    }

    /// The lane's private key of a generation; `None` where it is not there (yet).
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub(super) fn private(
        &self,
        generation: Generation,
    ) -> anyhow::Result<Option<Arc<PrivateKey>>> {
        let path = self.path(generation);
        match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text, &path).map(|key| Some(Arc::new(key))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Where the lane's private key of a generation is.
    pub(super) fn path(&self, generation: Generation) -> PathBuf {
        self.dir.join(gateway_key_entry(self.lane, generation))
    }

    /// The pre-shared key of a tunnel, if one was agreed on for these two public keys.
    pub(super) fn preshared(
        &self,
        generation: Generation,
        cluster: &str,
        own: &PublicKey,
        peer: &PublicKey,
    ) -> Option<PresharedKey> {
        // The name comes from the plan: one that is no cluster's does not lead out of here.
        let name = slicewire_core::name::ClusterName::parse(cluster).ok()?;
        let entry = preshared_key_entry(self.lane, generation, name.as_str());
        let text = std::fs::read_to_string(self.dir.join(entry)).ok()?;
        let mut words = text.split_whitespace();
        let mut public = || PublicKey::from_base64(words.next()?).ok();
        let meant = (public()?, public()?) == (*own, *peer);
        let key = PresharedKey::from_base64(words.next()?).ok()?;
        (meant && !key.is_zero()).then_some(key)
    }
}

fn parse(text: &str, path: &Path) -> anyhow::Result<PrivateKey> {
    let path = path.display();
    let key = PrivateKey::from_base64(text)
        .with_context(|| format!("the private key {path} cannot be used"))?;
    anyhow::ensure!(
        !key.is_zero(),
        "the private key {path} is all zeroes, which is no key: make one with `wg genkey`"
    );
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const OTHER: &str = "WIuGiR3nW0rqoJuYmmu8f5lxd9L6WsHJO/eb8nn4DV0=";

    #[test]
    fn a_bad_key_file_is_named_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(dir.path().into(), 0);
        assert!(keys.private(0).unwrap().is_none());
        let path = dir.path().join("lane-0");
        std::fs::write(&path, "c2VjcmV0").unwrap();
        let short = format!("{:#}", keys.private(0).unwrap_err());
        assert!(short.contains("lane-0") && !short.contains("c2VjcmV0"), "{short}");
        std::fs::write(&path, format!("{}=\n", "A".repeat(43))).unwrap();
        assert!(keys.private(0).unwrap_err().to_string().contains("zeroes"));
        std::fs::write(&path, format!("{PRIVATE}\n")).unwrap();
        assert!(keys.private(0).unwrap().is_some() && keys.private(1).unwrap().is_none());
        std::fs::write(dir.path().join("lane-0-generation-1"), OTHER).unwrap();
        let (first, second) = (keys.private(0).unwrap(), keys.private(1).unwrap());
        assert_ne!(first.unwrap().public(), second.unwrap().public());
    }

    #[test]
    fn a_pre_shared_key_is_for_the_two_keys_it_was_agreed_on_for() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(dir.path().into(), 2);
        let public = |text: &str| PrivateKey::from_base64(text).unwrap().public();
        let (own, peer) = (public(PRIVATE), public(OTHER));
        assert_eq!(keys.preshared(3, "west", &own, &peer), None);
        let path = dir.path().join("psk-2-generation-3-west");
        std::fs::write(&path, format!("{own} {peer} {OTHER}\n")).unwrap();
        let key = keys.preshared(3, "west", &own, &peer).unwrap();
        assert_eq!(key, PresharedKey::from_base64(OTHER).unwrap());
        assert_eq!(keys.preshared(3, "west", &peer, &own), None);
        assert_eq!(keys.preshared(3, "../west", &own, &peer), None);
        for bad in ["", "x y z", &format!("{own} {peer}"), &format!("{own} {peer} c2VjcmV0")] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(keys.preshared(3, "west", &own, &peer), None);
        }
    }
}
