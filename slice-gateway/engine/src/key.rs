//! Key types that do not show what they hold.
//!
//! Security property: a private or pre-shared key is wiped when dropped, has no `Debug` or
//! `Display` that shows it, and is compared in constant time.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

/// A text that is not a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a key: wanted 32 bytes as {form}; a key is made with `wg genkey`")]
pub struct KeyError {
    form: &'static str,
}

/// A Curve25519 private key.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<[u8; 32]>);

/// A Curve25519 public key: names a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

/// A key both ends share and mix into the handshake.
#[derive(Clone)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

fn from_base64(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let error = KeyError { form: "44 characters of base64" };
    let mut bytes = Zeroizing::new([0u8; 33]);
    match STANDARD.decode_slice(text.trim(), bytes.as_mut()) {
        Ok(32) => Ok(first_32(&bytes)),
        _ => Err(error),
    }
}

fn from_hex(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    hex::decode_to_slice(text.trim(), bytes.as_mut())
        .map_err(|_| KeyError { form: "64 hexadecimal digits" })?;
    Ok(bytes)
}

fn first_32(bytes: &[u8; 33]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0u8; 32]);
    key.copy_from_slice(&bytes[..32]);
    key
}

/// Compares without a branch that depends on the content.
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0u8, |acc, (x, y)| acc | (x ^ y))) == 0
}

macro_rules! secret_key {
    ($name:ident) => {
        impl $name {
            /// Takes 32 bytes as they are and wipes the caller's copy of them.
            pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
                let key = Self(Zeroizing::new(bytes));
                bytes.zeroize();
                key
            }

            /// Reads the base64 form that `wg` uses.
            pub fn from_base64(text: &str) -> Result<Self, KeyError> {
                from_base64(text).map(Self)
            }

            /// Reads the hexadecimal form that the control socket uses.
            pub fn from_hex(text: &str) -> Result<Self, KeyError> {
                from_hex(text).map(Self)
            }

            /// Lends out the key itself.
            pub fn expose(&self) -> &[u8; 32] {
                &self.0
            }

            /// True for the all-zero key, which stands for "no key" on the control socket.
            pub fn is_zero(&self) -> bool {
                equal(&self.0, &[0; 32])
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                equal(&self.0, &other.0)
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(hidden)"))
            }
        }
    };
}

secret_key!(PrivateKey);
secret_key!(PresharedKey);

impl PrivateKey {
    /// The public key that belongs to this private key.
    pub fn public(&self) -> PublicKey {
        PublicKey(*boringtun::x25519::PublicKey::from(&self.secret()).as_bytes())
    }

    /// The form the protocol implementation takes.
    pub(crate) fn secret(&self) -> boringtun::x25519::StaticSecret {
        boringtun::x25519::StaticSecret::from(*self.0)
    }
}

impl PublicKey {
    /// Takes 32 bytes as they are.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the base64 form that `wg` uses.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        from_base64(text).map(|key| Self(*key))
    }

    /// Reads the hexadecimal form that the control socket uses.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        from_hex(text).map(|key| Self(*key))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn public_key_of_a_known_private_key() {
        let private = PrivateKey::from_base64(PRIVATE).unwrap();
        assert_eq!(private.public().to_string(), PUBLIC);
    }

    #[test]
    fn refuses_what_is_not_32_bytes() {
        for text in ["", "AAAA", &PRIVATE[1..], &format!("{PRIVATE}AAAA"), "%%%%"] {
            assert!(PublicKey::from_base64(text).is_err(), "{text}");
        }
        assert!(PublicKey::from_hex("abcd").is_err());
    }

    #[test]
    fn debug_hides_secrets() {
        let private = PrivateKey::from_base64(PRIVATE).unwrap();
        assert_eq!(format!("{private:?}"), "PrivateKey(hidden)");
    }
}
