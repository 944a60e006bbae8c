//! The cluster's own authorities and what they sign: when something is due, and making it.
//!
//! An authority trusts nobody outside its cluster and is trusted by nobody outside it. A new one
//! signs nothing until everybody has had a day to learn of it, and an old one stays trusted to its
//! end: at every moment everybody accepts everybody.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};
use slicewire_rpc::tls::{AUTHORITIES, CERTIFICATE, Credentials, KEY};

/// Entry of the authorities' Secret: all of them with their keys, JSON.
const ALL: &str = "authorities";
/// Entry of a certificate's Secret: whom it names.
const NAME: &str = "name";
/// Entry of a certificate's Secret: when it ends, seconds since 1970.
const END: &str = "end";

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_LIFE: Duration = Duration::from_secs(730 * 24 * 3600);
const AUTHORITY_MARGIN: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long everybody may take to learn of a new authority.
const LEARNING: Duration = DAY;
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
const MARGIN: Duration = Duration::from_secs(10 * 24 * 3600);

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(in crate::worker) enum Failed {
    /// No key, or a name that is none.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// There is nobody to sign.
    #[error("cannot make a certificate: there is no authority")]
    Alone,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Authority {
    /// PEM.
    certificate: String,
    /// PEM.
    key: String,
    /// Seconds since 1970.
    made: u64,
    /// Seconds since 1970.
    end: u64,
}

/// The authorities of a cluster, newest first.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Authorities(Vec<Authority>);

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    Server,
    Client,
}

impl Authorities {
    /// Reads a Secret's entries; `None` where there is nothing, or damage.
    pub(super) fn read(entries: &BTreeMap<String, ByteString>) -> Option<Self> {
        let all: Vec<Authority> = serde_json::from_slice(&entries.get(ALL)?.0).ok()?;
        let whole = |a: &Authority| KeyPair::from_pem(&a.key).is_ok();
        (!all.is_empty() && all.iter().all(whole)).then_some(Self(all))
    }

    /// The Secret's entries.
    pub(super) fn write(&self) -> BTreeMap<String, ByteString> {
        let all = serde_json::to_vec(&self.0).unwrap_or_default();
        BTreeMap::from([
            (ALL.to_owned(), ByteString(all)),
            (AUTHORITIES.to_owned(), ByteString(self.trusted().into_bytes())),
        ])
    }

    /// The authorities there should be now; `None` when that is those there are.
    ///
    /// # Errors
    /// No key could be made.
    pub(super) fn due(old: Option<&Self>, now: SystemTime) -> Result<Option<Self>, Failed> {
        let before = old.map_or(&[][..], |old| &old.0);
        let mut all: Vec<Authority> =
            before.iter().filter(|a| a.end > seconds(now)).cloned().collect();
        if all.first().is_none_or(|newest| newest.end < seconds(now + AUTHORITY_MARGIN)) {
            all.insert(0, Authority::make(now)?);
        }
        Ok((all != before).then_some(Self(all)))
    }

    /// Certificates to trust, PEM.
    pub(super) fn trusted(&self) -> String {
        self.0.iter().map(|a| a.certificate.as_str()).collect()
    }

    /// A certificate for a name.
    ///
    /// # Errors
    /// No key could be made, or the name is none.
    pub(super) fn sign(&self, name: &str, usage: Usage, now: SystemTime) -> Result<Signed, Failed> {
        let learnt = |a: &&Authority| a.made + LEARNING.as_secs() <= seconds(now);
        let authority = self.0.iter().find(learnt).or(self.0.last());
        let authority = authority.ok_or(Failed::Alone)?;
        let issuer = Issuer::new(parameters(authority.made)?, KeyPair::from_pem(&authority.key)?);
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec![name.to_owned()])?;
        leaf.distinguished_name.push(DnType::CommonName, "slicewire");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        leaf.not_before = (now - DAY).into();
        leaf.not_after = (now + LIFE).into();
        Ok(Signed {
            name: name.to_owned(),
            end: seconds(now + LIFE),
            credentials: Credentials {
                authorities: self.trusted(),
                certificate: leaf.signed_by(&key, &issuer)?.pem(),
                key: key.serialize_pem(),
            },
        })
    }
}

impl Authority {
    fn make(now: SystemTime) -> Result<Self, Failed> {
        let key = KeyPair::generate()?;
        let made = seconds(now);
        Ok(Self {
            certificate: parameters(made)?.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
            made,
            end: made + AUTHORITY_LIFE.as_secs(),
        })
    }
}

fn parameters(made: u64) -> Result<CertificateParams, Failed> {
    let made = UNIX_EPOCH + Duration::from_secs(made);
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name.push(DnType::CommonName, "slicewire cluster");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters.not_before = (made - DAY).into();
    parameters.not_after = (made + AUTHORITY_LIFE).into();
    Ok(parameters)
}

/// A certificate, its key, and whom its holder trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signed {
    name: String,
    end: u64,
    pub(super) credentials: Credentials,
}

impl Signed {
    /// Reads a Secret's entries; `None` where one is missing or damaged.
    pub(super) fn read(entries: &BTreeMap<String, ByteString>) -> Option<Self> {
        let entry = |name: &str| Some(entries.get(name)?.0.clone());
        let text = |name: &str| String::from_utf8(entry(name)?).ok();
        let credentials = Credentials::read(entry).ok()?;
        credentials.server().ok()?;
        Some(Self { name: text(NAME)?, end: text(END)?.parse().ok()?, credentials })
    }

    /// The Secret's entries.
    pub(super) fn write(&self) -> BTreeMap<String, ByteString> {
        let credentials = &self.credentials;
        [
            (AUTHORITIES, credentials.authorities.clone()),
            (CERTIFICATE, credentials.certificate.clone()),
            (KEY, credentials.key.clone()),
            (NAME, self.name.clone()),
            (END, self.end.to_string()),
        ]
        .into_iter()
        .map(|(entry, text)| (entry.to_owned(), ByteString(text.into_bytes())))
        .collect()
    }

    /// Whether it will do for a while, under these authorities.
    pub(super) fn good(&self, authorities: &Authorities, name: &str, now: SystemTime) -> bool {
        self.name == name
            && self.end > seconds(now + MARGIN)
            && self.credentials.authorities == authorities.trusted()
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests;
