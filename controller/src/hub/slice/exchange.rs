//! What clusters say to each other to agree on pre-shared keys: checked, and handed on to whom it is
//! for.
//!
//! Security: the hub passes public keys and ciphertexts on, and learns no key. What is not of the
//! right length stays behind ([`refused`] tells it), nobody speaks for another, and each cluster is
//! told only what was encapsulated to its own key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use slicewire_api::{OwnExchange, PeerExchange};
use slicewire_core::member::{Fault, sentence};
use slicewire_core::name::ClusterName;
use slicewire_core::rotation::Generation;

use super::observe::Observed;

/// Bytes of an ML-KEM-768 encapsulation key and of a ciphertext (FIPS 203, table 3).
const ENCAPSULATION_KEY: usize = 1184;
const CIPHERTEXT: usize = 1088;
/// Most ciphertexts that are looked at.
const MOST: usize = 1024;

/// A cluster's word for a generation; `None` before it has said something that can be used.
pub(super) type Said = Option<OwnExchange>;

/// What a cluster has said.
pub(super) fn said(observed: &Observed, cluster: &ClusterName, generation: Generation) -> Said {
    let status = observed.gateways.get(cluster)?.status.as_ref()?;
    let said = status.exchange.as_ref().filter(|said| said.generation == generation)?;
    sized(&said.encapsulation_key, ENCAPSULATION_KEY).is_ok().then(|| said.clone())
}

/// What of it is for one cluster.
pub(super) fn for_cluster(
    cluster: &ClusterName,
    said: &[(&ClusterName, Said)],
) -> Vec<PeerExchange> {
    let others = said.iter().filter(|(other, _)| *other != cluster);
    let peer = |(other, said): &(&ClusterName, Said)| {
        let said = said.as_ref()?;
        let mut ciphertexts = said.ciphertexts.iter().take(MOST);
        let mine = ciphertexts.find(|c| c.cluster == cluster.as_str()).map(|c| &c.ciphertext);
        Some(PeerExchange {
            cluster: other.to_string(),
            encapsulation_key: said.encapsulation_key.clone(),
            ciphertext: mine.filter(|c| sized(c, CIPHERTEXT).is_ok()).cloned(),
        })
    };
    others.filter_map(peer).collect()
}

/// What of a cluster's word is not handed on: field, value, and why.
pub(in crate::hub) fn refused(said: &OwnExchange) -> Vec<(String, String, Fault)> {
    let mut all = Vec::new();
    if let Err(fault) = sized(&said.encapsulation_key, ENCAPSULATION_KEY) {
        let field = "exchange.encapsulationKey".to_owned();
        all.push((field, sentence(&said.encapsulation_key), fault));
    }
    if said.ciphertexts.len() > MOST {
        let field = "exchange.ciphertexts".to_owned();
        all.push((field, said.ciphertexts.len().to_string(), Fault::TooMany));
    }
    for one in said.ciphertexts.iter().take(MOST) {
        if let Err(fault) = sized(&one.ciphertext, CIPHERTEXT) {
            let field = format!("exchange.ciphertexts[{}]", sentence(&one.cluster));
            all.push((field, sentence(&one.ciphertext), fault));
        }
    }
    all
}

/// Whether a text is so many bytes in the one spelling that base64 has for them.
fn sized(text: &str, bytes: usize) -> Result<(), Fault> {
    let decoded = STANDARD.decode(text).map_err(|_| Fault::Malformed)?;
    if decoded.len() == bytes { Ok(()) } else { Err(Fault::Malformed) }
}
