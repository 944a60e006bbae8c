//! Agreeing on pre-shared keys with the other clusters, through a hub that learns none.
//!
//! Each cluster makes an ML-KEM-768 key (FIPS 203) for a generation, encapsulates a secret to every
//! other cluster's, and tunnels get a key out of both directions' secrets (HKDF-SHA256, RFC 5869).
//!
//! Security: the decapsulation key and the secrets live in one Secret of this cluster that no
//! gateway sees, and only until the generation is the only one. What others say is outside input:
//! what is none of its length or no such key is as if it had not been said, and decides about
//! nobody's tunnel but that with who said it. Wrong ciphertexts lead to a key that the other end
//! does not have; its tunnel then does not come up, and the old one goes on.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use slicewire_api::{Encapsulated, OwnExchange, PeerExchange};
use slicewire_core::name::{ClusterName, Lane, SliceName};
use slicewire_core::rotation::{Generation, Party, comes_first, transcript};
use zeroize::Zeroizing;

/// A secret of either direction, and the key made of both.
pub(super) type Shared = Zeroizing<[u8; 32]>;

/// Bytes of a ciphertext.
const CIPHERTEXT: usize = 1088;

const GENERATION: &str = "generation";
const OPENS: &str = "decapsulation-key";
const PUBLIC: &str = "encapsulation-key";
/// Before the name of the cluster that was encapsulated to.
const TO: &str = "to-";

/// The library refused.
#[derive(Debug, thiserror::Error)]
#[error("no ML-KEM key can be made")]
pub(super) struct Refused;

/// What this cluster has of an exchange.
pub(super) struct Exchange {
    pub(super) generation: Generation,
    opens: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
    /// By cluster.
    sent: BTreeMap<String, Sent>,
}

/// What was encapsulated to a cluster's key.
struct Sent {
    /// SHA-256 of that key.
    key: Vec<u8>,
    ciphertext: Vec<u8>,
    secret: Shared,
}

/// The two WireGuard keys of a tunnel, and its other end.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub(super) own: (&'a str, &'a str),
    pub(super) peer: (&'a str, &'a str),
}

impl Exchange {
    /// A new one.
    ///
    /// # Errors
    /// The library has no randomness.
    pub(super) fn fresh(generation: Generation) -> Result<Self, Refused> {
        let key = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| Refused)?;
        let public = key.encapsulation_key().and_then(|public| public.key_bytes());
        let public = public.map_err(|_| Refused)?.as_ref().to_vec();
        let opens = Zeroizing::new(key.key_bytes().map_err(|_| Refused)?.as_ref().to_vec());
        Ok(Self { generation, opens, public, sent: BTreeMap::new() })
    }

    /// As a Secret has it; `None` where it is none, or of another generation.
    pub(super) fn read(
        data: &BTreeMap<String, ByteString>,
        generation: Generation,
    ) -> Option<Self> {
        let number = std::str::from_utf8(&data.get(GENERATION)?.0).ok()?.parse().ok();
        (number == Some(generation)).then_some(())?;
        let opens = Zeroizing::new(data.get(OPENS)?.0.clone());
        DecapsulationKey::new(&ML_KEM_768, &opens).ok()?;
        let public = data.get(PUBLIC)?.0.clone();
        EncapsulationKey::new(&ML_KEM_768, &public).ok()?;
        let sent = data.iter().filter_map(|(entry, value)| {
            Some((entry.strip_prefix(TO)?.to_owned(), Sent::read(&value.0)?))
        });
        Some(Self { generation, opens, public, sent: sent.collect() })
    }

    /// For a Secret.
    pub(super) fn write(&self) -> BTreeMap<String, ByteString> {
        let sent = self.sent.iter().map(|(cluster, sent)| (format!("{TO}{cluster}"), sent.write()));
        let own = [
            (GENERATION.to_owned(), self.generation.to_string().into_bytes()),
            (OPENS.to_owned(), self.opens.to_vec()),
            (PUBLIC.to_owned(), self.public.clone()),
        ];
        own.into_iter().chain(sent).map(|(entry, bytes)| (entry, ByteString(bytes))).collect()
    }

    /// Encapsulates to every key that it has not been done for; what has been said to others stays,
    /// for a hub that says less for a while changes no key. Tells whether anything changed.
    pub(super) fn answer(&mut self, peers: &[PeerExchange]) -> bool {
        let mut changed = false;
        for peer in peers.iter().filter(|p| ClusterName::parse(&p.cluster).is_ok()) {
            let Some(key) = decode(&peer.encapsulation_key) else { continue };
            let hash = hash(&key);
            if self.sent.get(&peer.cluster).is_some_and(|sent| sent.key == hash) {
                continue;
            }
            if let Some(sent) = Sent::to(&key, hash) {
                self.sent.insert(peer.cluster.clone(), sent);
                changed = true;
            }
        }
        changed
    }

    /// What the others are told.
    pub(super) fn told(&self) -> OwnExchange {
        let ciphertext = |(cluster, sent): (&String, &Sent)| Encapsulated {
            cluster: cluster.clone(),
            ciphertext: STANDARD.encode(&sent.ciphertext),
        };
        OwnExchange {
            generation: self.generation,
            encapsulation_key: STANDARD.encode(&self.public),
            ciphertexts: self.sent.iter().map(ciphertext).collect(),
        }
    }

    /// A tunnel's key, once both ends have said all it is made of.
    pub(super) fn preshared_key(
        &self,
        slice: &SliceName,
        lane: Lane,
        ends: Ends<'_>,
        peer: &PeerExchange,
    ) -> Option<Shared> {
        let sent = self.sent.get(&peer.cluster)?;
        let theirs = decode(&peer.encapsulation_key).filter(|key| hash(key) == sent.key)?;
        let ciphertext = decode(peer.ciphertext.as_deref()?).filter(|c| c.len() == CIPHERTEXT)?;
        let key = DecapsulationKey::new(&ML_KEM_768, &self.opens).ok()?;
        let opened = key.decapsulate(Ciphertext::from(ciphertext.as_slice())).ok()?;
        let own = Party {
            cluster: ends.own.0,
            public_key: ends.own.1,
            encapsulation_key: &self.public,
            ciphertext: &sent.ciphertext,
        };
        let other = Party {
            cluster: ends.peer.0,
            public_key: ends.peer.1,
            encapsulation_key: &theirs,
            ciphertext: &ciphertext,
        };
        let (first, second) = if comes_first(own.cluster, other.cluster) {
            (sent.secret.as_slice(), opened.as_ref())
        } else {
            (opened.as_ref(), sent.secret.as_slice())
        };
        let both = Zeroizing::new([first, second].concat());
        let bound = hash(&transcript(slice, lane, self.generation, own, other));
        let mut key = Shared::default();
        let salt = Salt::new(HKDF_SHA256, &bound).extract(&both);
        salt.expand(&[b"slicewire wireguard pre-shared key"], HKDF_SHA256)
            .and_then(|out| out.fill(key.as_mut_slice()))
            .ok()?;
        Some(key)
    }
}

impl Sent {
    fn to(key: &[u8], hash: Vec<u8>) -> Option<Self> {
        let public = EncapsulationKey::new(&ML_KEM_768, key).ok()?;
        let (ciphertext, secret) = public.encapsulate().ok()?;
        let secret = Shared::new(secret.as_ref().try_into().ok()?);
        Some(Self { key: hash, ciphertext: ciphertext.as_ref().to_vec(), secret })
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (key, rest) = bytes.split_at_checked(32)?;
        let (secret, ciphertext) = rest.split_at_checked(32)?;
        (ciphertext.len() == CIPHERTEXT).then_some(())?;
        let secret = Shared::new(secret.try_into().ok()?);
        Some(Self { key: key.to_vec(), ciphertext: ciphertext.to_vec(), secret })
    }

    fn write(&self) -> Vec<u8> {
        [self.key.as_slice(), self.secret.as_slice(), self.ciphertext.as_slice()].concat()
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

fn hash(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice() -> SliceName {
        SliceName::parse("blue").unwrap()
    }

    /// What the hub makes of a cluster's word for another cluster.
    fn relayed(from: &str, exchange: &Exchange, to: &str) -> PeerExchange {
        let told = exchange.told();
        let mine = told.ciphertexts.iter().find(|c| c.cluster == to);
        PeerExchange {
            cluster: from.to_owned(),
            encapsulation_key: told.encapsulation_key.clone(),
            ciphertext: mine.map(|c| c.ciphertext.clone()),
        }
    }

    fn pair() -> (Exchange, Exchange) {
        let (mut east, mut west) = (Exchange::fresh(1).unwrap(), Exchange::fresh(1).unwrap());
        assert!(east.answer(&[relayed("west", &west, "east")]));
        assert!(west.answer(&[relayed("east", &east, "west")]));
        (east, west)
    }

    fn at_east(east: &Exchange, peer: &PeerExchange) -> Option<Shared> {
        let ends = Ends { own: ("east", "ke"), peer: ("west", "kw") };
        east.preshared_key(&slice(), 0, ends, peer)
    }

    fn at_west(west: &Exchange, peer: &PeerExchange) -> Option<Shared> {
        let ends = Ends { own: ("west", "kw"), peer: ("east", "ke") };
        west.preshared_key(&slice(), 0, ends, peer)
    }

    #[test]
    fn both_ends_get_the_same_key_and_each_tunnel_another() {
        let (east, west) = pair();
        let (to_east, to_west) = (relayed("west", &west, "east"), relayed("east", &east, "west"));
        let one = at_east(&east, &to_east).unwrap();
        assert_eq!(one, at_west(&west, &to_west).unwrap());
        assert_ne!(*one, [0; 32]);
        let ends = Ends { own: ("east", "ke"), peer: ("west", "kw") };
        assert_ne!(one, east.preshared_key(&slice(), 1, ends, &to_east).unwrap(), "another lane");
        let (again, other) = pair();
        assert_ne!(one, at_east(&again, &relayed("west", &other, "east")).unwrap());
    }

    #[test]
    fn a_restart_changes_nothing() {
        let (mut east, west) = pair();
        let to_east = relayed("west", &west, "east");
        let before = at_east(&east, &to_east).unwrap();
        let told = east.told();
        east = Exchange::read(&east.write(), 1).unwrap();
        assert!(!east.answer(std::slice::from_ref(&to_east)));
        assert_eq!((east.told(), at_east(&east, &to_east).unwrap()), (told, before));
        assert!(Exchange::read(&east.write(), 2).is_none(), "another generation's");
    }

    #[test]
    fn who_lost_everything_begins_anew_and_they_find_together_again() {
        let (mut east, _lost) = pair();
        let mut west = Exchange::fresh(1).unwrap();
        assert!(west.answer(&[relayed("east", &east, "west")]));
        // East has not answered the new key: what it would make would be no common key.
        assert!(at_east(&east, &relayed("west", &west, "east")).is_none());
        assert!(east.answer(&[relayed("west", &west, "east")]));
        let (to_east, to_west) = (relayed("west", &west, "east"), relayed("east", &east, "west"));
        assert_eq!(at_east(&east, &to_east).unwrap(), at_west(&west, &to_west).unwrap());
    }

    #[test]
    fn what_a_stranger_says_is_no_key_or_one_that_nobody_shares() {
        let (mut east, west) = pair();
        let good = relayed("west", &west, "east");
        let agreed = at_east(&east, &good).unwrap();
        let short = STANDARD.encode([7; 31]);
        let all_bad = STANDARD.encode([0xff; 1184]);
        for key in ["", "no base64!", short.as_str(), all_bad.as_str()] {
            let bad = PeerExchange { encapsulation_key: key.into(), ..good.clone() };
            assert!(!east.answer(std::slice::from_ref(&bad)), "{key:.20}");
            assert!(at_east(&east, &bad).is_none());
        }
        for ciphertext in [None, Some(String::new()), Some(short)] {
            assert!(at_east(&east, &PeerExchange { ciphertext, ..good.clone() }).is_none());
        }
        let forged = Some(STANDARD.encode([9; CIPHERTEXT]));
        let forged = at_east(&east, &PeerExchange { ciphertext: forged, ..good.clone() }).unwrap();
        assert_ne!(forged, agreed, "the other end does not have it");
        // Another's lies change nothing between these two.
        let liar =
            PeerExchange { cluster: "north".into(), encapsulation_key: all_bad, ciphertext: None };
        let odd = PeerExchange { cluster: "../x".into(), ..good.clone() };
        assert!(!east.answer(&[good.clone(), liar, odd]));
        assert_eq!(at_east(&east, &good).unwrap(), agreed);
    }

    #[test]
    fn nothing_secret_is_told() {
        let (east, west) = pair();
        let key = at_east(&east, &relayed("west", &west, "east")).unwrap();
        let told = serde_json::to_string(&east.told()).unwrap();
        let sent = &east.sent["west"];
        for secret in [&east.opens[..64], sent.secret.as_slice(), key.as_slice()] {
            // Base64 of the same bytes at any place in a longer text.
            for skip in 0..3 {
                let text = STANDARD.encode(&secret[skip..skip + 27]);
                assert!(!told.contains(&text[..32]), "a secret is told");
            }
        }
    }
}
