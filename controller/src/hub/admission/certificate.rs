//! The webhook's certificate: self-signed, trusted by the API server for this webhook alone.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

const DAY: Duration = Duration::from_secs(24 * 3600);
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
const MARGIN: Duration = Duration::from_secs(60 * 24 * 3600);

/// What the Secret holds, each entry in PEM save the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Material {
    /// `ca.crt`: this certificate and the one before it, for replicas that still use that one.
    pub(super) trusted: String,
    /// `tls.crt`.
    pub(super) certificate: String,
    /// `tls.key`.
    pub(super) key: String,
    /// `names`: what it is good for, one a line.
    names: String,
    /// `end`: seconds since 1970.
    end: u64,
}

impl Material {
    /// Makes a certificate for these DNS names or addresses.
    ///
    /// # Errors
    /// No key can be made, or a name is none.
    pub(super) fn make(
        names: &[String],
        before: Option<&Self>,
        now: SystemTime,
    ) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(names.to_vec())?;
        parameters.distinguished_name.push(DnType::CommonName, "slicewire-hub webhook");
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.not_before = (now - DAY).into();
        parameters.not_after = (now + LIFE).into();
        let certificate = parameters.self_signed(&key)?.pem();
        let old = before.map_or("", |b| b.certificate.as_str());
        Ok(Self {
            trusted: format!("{certificate}{old}"),
            certificate,
            key: key.serialize_pem(),
            names: names.join("\n"),
            end: (now + LIFE).duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        })
    }

    /// Whether it is good for these names, and will be for a while.
    pub(super) fn good(&self, names: &[String], now: SystemTime) -> bool {
        UNIX_EPOCH + Duration::from_secs(self.end) > now + MARGIN && self.names == names.join("\n")
    }

    /// Reads a Secret's entries; `None` where one is missing or damaged.
    pub(super) fn read(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |name: &str| String::from_utf8(data.get(name)?.0.clone()).ok();
        Some(Self {
            trusted: text("ca.crt")?,
            certificate: text("tls.crt")?,
            key: text("tls.key")?,
            names: text("names")?,
            end: text("end")?.parse().ok()?,
        })
    }

    /// The Secret's entries.
    pub(super) fn write(&self) -> BTreeMap<String, ByteString> {
        let entries = [
            ("ca.crt", self.trusted.clone()),
            ("tls.crt", self.certificate.clone()),
            ("tls.key", self.key.clone()),
            ("names", self.names.clone()),
            ("end", self.end.to_string()),
        ];
        entries.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs((20_000 + days) * 24 * 3600)
    }

    #[test]
    fn it_is_renewed_in_time_and_its_predecessor_stays_trusted() {
        let names = ["slicewire-hub.slicewire-system.svc".to_owned()];
        let first = Material::make(&names, None, at(0)).unwrap();
        assert!(first.good(&names, at(300)));
        assert!(!first.good(&names, at(306)));
        assert!(!first.good(&["other".to_owned()], at(0)));
        let second = Material::make(&names, Some(&first), at(306)).unwrap();
        assert!(second.trusted.ends_with(&first.certificate));
        assert_eq!(second.trusted.matches("BEGIN CERTIFICATE").count(), 2);
    }

    #[test]
    fn a_secret_is_read_as_written_and_damage_is_noticed() {
        let material = Material::make(&["192.0.2.1".to_owned()], None, at(0)).unwrap();
        let mut data = material.write();
        assert_eq!(Material::read(&data), Some(material));
        data.remove("end");
        assert_eq!(Material::read(&data), None);
    }
}
