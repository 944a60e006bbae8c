//! Keys as `wg` writes them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use x25519_dalek::{PublicKey, StaticSecret};

/// A Curve25519 key pair.
#[derive(Clone)]
pub struct KeyPair {
    secret: StaticSecret,
}

impl KeyPair {
    /// A fresh pair; the private key as `wg genkey` makes them, with the bits set that every use
    /// of it would set.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = rand::random::<[u8; 32]>();
        bytes[0] &= 248;
        bytes[31] = bytes[31] & 127 | 64;
        Self { secret: StaticSecret::from(bytes) }
    }

    /// The private key in base64.
    #[must_use]
    pub fn private(&self) -> String {
        STANDARD.encode(self.secret.to_bytes())
    }

    /// The public key in base64.
    #[must_use]
    pub fn public(&self) -> String {
        STANDARD.encode(self.public_bytes())
    }

    /// The public key's 32 bytes.
    #[must_use]
    pub fn public_bytes(&self) -> [u8; 32] {
        PublicKey::from(&self.secret).to_bytes()
    }
}

/// A fresh pre-shared key in base64.
#[must_use]
pub fn preshared() -> String {
    STANDARD.encode(rand::random::<[u8; 32]>())
}
