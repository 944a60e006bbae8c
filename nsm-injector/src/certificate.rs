//! The webhook's own certificate authority and certificate: when they are due, and making them.
//!
//! Both live in one Secret, whose entries are named by the constants here. The authority signs
//! nothing but this webhook's certificate, and API servers trust it for this webhook only.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Entry of the Secret: certificates of the authorities to trust, PEM, newest first.
const AUTHORITIES: &str = "ca.crt";
/// Entry of the Secret: the newest authority's private key, PEM.
const AUTHORITY_KEY: &str = "ca.key";
/// Entry of the Secret: when the newest authority ends, seconds since 1970.
const AUTHORITY_END: &str = "ca.end";
/// Entry of the Secret: the webhook's certificate, PEM.
const CERTIFICATE: &str = "tls.crt";
/// Entry of the Secret: its private key, PEM.
const KEY: &str = "tls.key";
/// Entry of the Secret: when it ends, seconds since 1970.
const END: &str = "tls.end";

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
const AUTHORITY_MARGIN: Duration = Duration::from_secs(365 * 24 * 3600);
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
const MARGIN: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the Secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Material {
    /// Certificates to trust, PEM.
    pub(crate) authorities: String,
    authority_key: String,
    authority_end: u64,
    /// The webhook's certificate, PEM.
    pub(crate) certificate: String,
    /// Its private key, PEM.
    pub(crate) key: String,
    end: u64,
}

/// What has to be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing.
    Nothing,
    /// The webhook's certificate.
    Certificate,
    /// The authority, and with it the certificate.
    Authority,
}

/// Making a certificate failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the webhook's certificate: {0}")]
pub(crate) struct Failed(#[from] rcgen::Error);

impl Material {
    /// Reads a Secret's entries; `None` where any is missing or damaged.
    pub(crate) fn read(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |name: &str| String::from_utf8(data.get(name)?.0.clone()).ok();
        let number = |name: &str| text(name)?.parse().ok();
        Some(Self {
            authorities: text(AUTHORITIES)?,
            authority_key: text(AUTHORITY_KEY)?,
            authority_end: number(AUTHORITY_END)?,
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?,
            end: number(END)?,
        })
    }

    /// The Secret's entries.
    pub(crate) fn write(&self) -> BTreeMap<String, ByteString> {
        [
            (AUTHORITIES, self.authorities.clone()),
            (AUTHORITY_KEY, self.authority_key.clone()),
            (AUTHORITY_END, self.authority_end.to_string()),
            (CERTIFICATE, self.certificate.clone()),
            (KEY, self.key.clone()),
            (END, self.end.to_string()),
        ]
        .into_iter()
        .map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())))
        .collect()
    }
}

/// What is due, long enough before the end that a few days without us do no harm.
pub(crate) fn due(material: Option<&Material>, now: SystemTime) -> Due {
    let ends_within =
        |end: u64, margin: Duration| UNIX_EPOCH + Duration::from_secs(end) < now + margin;
    match material {
        None => Due::Authority,
        Some(m) if ends_within(m.authority_end, AUTHORITY_MARGIN) => Due::Authority,
        Some(m) if ends_within(m.end, MARGIN) => Due::Certificate,
        Some(_) => Due::Nothing,
    }
}

/// Makes what is due. A new authority leaves the old one trusted, so that certificates of both
/// pass while replicas take over one after the other.
///
/// # Errors
/// No keys could be made, or the authority's stored key is damaged.
pub(crate) fn renew(
    material: Option<&Material>,
    due: Due,
    service: &[String],
    now: SystemTime,
) -> Result<Material, Failed> {
    let made;
    let authority = match (material, due) {
        (Some(current), Due::Certificate | Due::Nothing) => current,
        (old, _) => {
            made = new_authority(old, now)?;
            &made
        }
    };
    let parameters = authority_parameters(now)?;
    let issuer = Issuer::from_params(&parameters, KeyPair::from_pem(&authority.authority_key)?);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(service.to_vec())?;
    leaf.distinguished_name.push(DnType::CommonName, service.first().cloned().unwrap_or_default());
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.not_before = (now - DAY).into();
    leaf.not_after = (now + LIFE).into();
    Ok(Material {
        certificate: leaf.signed_by(&key, &issuer)?.pem(),
        key: key.serialize_pem(),
        end: seconds(now + LIFE),
        ..authority.clone()
    })
}

fn new_authority(old: Option<&Material>, now: SystemTime) -> Result<Material, Failed> {
    let key = KeyPair::generate()?;
    let mut authorities = authority_parameters(now)?.self_signed(&key)?.pem();
    if let Some(old) = old {
        authorities.push_str(&newest(&old.authorities));
    }
    Ok(Material {
        authorities,
        authority_key: key.serialize_pem(),
        authority_end: seconds(now + AUTHORITY_LIFE),
        certificate: String::new(),
        key: String::new(),
        end: 0,
    })
}

/// The first certificate of a bundle.
fn newest(bundle: &str) -> String {
    const END_OF_PEM: &str = "-----END CERTIFICATE-----";
    bundle
        .find(END_OF_PEM)
        .and_then(|at| bundle.get(..at + END_OF_PEM.len()))
        .map(|first| format!("{first}\n"))
        .unwrap_or_default()
}

fn authority_parameters(now: SystemTime) -> Result<CertificateParams, Failed> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name.push(DnType::CommonName, "slicewire nsm-injector");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters.not_before = (now - DAY).into();
    parameters.not_after = (now + AUTHORITY_LIFE).into();
    Ok(parameters)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000) + Duration::from_secs(days * 24 * 3600)
    }

    fn service() -> Vec<String> {
        vec!["slicewire-nsm-injector.slicewire-system.svc".to_owned()]
    }

    fn fresh() -> Material {
        renew(None, Due::Authority, &service(), at(0)).unwrap()
    }

    #[test]
    fn renewal_comes_well_before_the_end() {
        let material = fresh();
        assert_eq!(due(None, at(0)), Due::Authority);
        assert_eq!(due(Some(&material), at(59)), Due::Nothing);
        assert_eq!(due(Some(&material), at(61)), Due::Certificate);
        assert_eq!(due(Some(&material), at(3286)), Due::Authority);
    }

    #[test]
    fn a_new_certificate_keeps_the_authority() {
        let old = fresh();
        let new = renew(Some(&old), Due::Certificate, &service(), at(70)).unwrap();
        assert_eq!(new.authorities, old.authorities);
        assert_ne!(new.certificate, old.certificate);
        assert_eq!(due(Some(&new), at(70)), Due::Nothing);
    }

    #[test]
    fn a_new_authority_leaves_only_its_predecessor_trusted() {
        let mut material = fresh();
        let first = material.authorities.clone();
        for day in [3300, 6600] {
            let before = newest(&material.authorities);
            material = renew(Some(&material), Due::Authority, &service(), at(day)).unwrap();
            assert_eq!(material.authorities.matches("BEGIN CERTIFICATE").count(), 2);
            assert!(material.authorities.ends_with(&before));
        }
        assert!(!material.authorities.contains(&newest(&first)));
    }

    #[test]
    fn a_secret_is_read_as_it_was_written_and_damage_is_noticed() {
        let material = fresh();
        let mut data = material.write();
        assert_eq!(Material::read(&data), Some(material));
        data.remove(KEY);
        assert_eq!(Material::read(&data), None);
    }
}
