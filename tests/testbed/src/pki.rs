//! A cluster's certificate authority and everybody's certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::Value;

use crate::config;
use crate::plan::{Cluster, Machine};

/// The directory of a cluster's keys, certificates and kubeconfigs.
///
/// `ca.crt`, `ca.key`, `sa.key`, `sa.pub`, `<name>.crt` and `<name>.key` for the servers, and
/// `<user>.kubeconfig` for everyone who talks to the API server.
#[derive(Debug, Clone)]
pub struct Pki {
    directory: PathBuf,
}

/// Who gets a certificate: name of the files, common name, organisation.
struct Subject {
    file: String,
    common_name: String,
    organisation: Option<&'static str>,
    /// Empty for a client.
    server_names: Vec<String>,
}

impl Pki {
    /// Makes a cluster's keys in `directory`, or takes those that are there.
    pub fn ensure(directory: &Path, cluster: &Cluster) -> Result<Self> {
        let pki = Self { directory: directory.to_owned() };
        if !directory.exists() {
            // Complete or absent: an interrupted run leaves only the other name.
            let unfinished = directory.with_extension("unfinished");
            if unfinished.exists() {
                fs::remove_dir_all(&unfinished)?;
            }
            fs::create_dir_all(&unfinished)?;
            generate(&unfinished, cluster)
                .with_context(|| format!("cannot make the keys of cluster {}", cluster.name))?;
            fs::rename(&unfinished, directory)?;
        }
        Ok(pki)
    }

    /// A file of the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.file("admin.kubeconfig")
    }
}

/// The kubelet's files' name on a node.
pub fn kubelet_name(machine: &Machine) -> String {
    format!("kubelet-{}", machine.name)
}

fn subjects(cluster: &Cluster) -> Vec<Subject> {
    let client = |file: &str, common_name: &str, organisation| Subject {
        file: file.to_owned(),
        common_name: common_name.to_owned(),
        organisation,
        server_names: Vec::new(),
    };
    let mut subjects = vec![
        Subject {
            server_names: config::api_server_names(cluster),
            ..client("apiserver", "kube-apiserver", None)
        },
        client("kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters")),
        client("front-proxy-client", "front-proxy-client", None),
        client("admin", "admin", Some("system:masters")),
        client("controller-manager", "system:kube-controller-manager", None),
        client("scheduler", "system:kube-scheduler", None),
        client("kube-proxy", "system:kube-proxy", None),
    ];
    subjects.extend(cluster.workers.iter().map(|node| {
        let user = format!("system:node:{}", node.name);
        client(&kubelet_name(node), &user, Some("system:nodes"))
    }));
    subjects
}

fn generate(directory: &Path, cluster: &Cluster) -> Result<()> {
    let (ca, ca_pem) = authority(&cluster.name)?;
    write(directory, "ca.crt", ca_pem.as_bytes())?;
    write(directory, "ca.key", ca.key().serialize_pem().as_bytes())?;
    let service_accounts = KeyPair::generate()?;
    write(directory, "sa.key", service_accounts.serialize_pem().as_bytes())?;
    write(directory, "sa.pub", service_accounts.public_key_pem().as_bytes())?;
    for subject in subjects(cluster) {
        let key = KeyPair::generate()?;
        let certificate = subject.parameters()?.signed_by(&key, &ca)?.pem();
        let key = key.serialize_pem();
        let [ca64, crt64, key64] = [&ca_pem, &certificate, &key].map(|pem| STANDARD.encode(pem));
        let kubeconfig = config::kubeconfig(cluster, &subject.file, &ca64, &crt64, &key64);
        write(directory, &format!("{}.crt", subject.file), certificate.as_bytes())?;
        write(directory, &format!("{}.key", subject.file), key.as_bytes())?;
        write_json(directory, &format!("{}.kubeconfig", subject.file), &kubeconfig)?;
    }
    Ok(())
}

fn authority(cluster: &str) -> Result<(Issuer<'static, KeyPair>, String)> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name.push(DnType::CommonName, format!("{cluster} testbed CA"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pem = parameters.self_signed(&key)?.pem();
    Ok((Issuer::new(parameters, key), pem))
}

impl Subject {
    fn parameters(&self) -> Result<CertificateParams> {
        let mut parameters = CertificateParams::new(self.server_names.clone())?;
        parameters.distinguished_name.push(DnType::CommonName, self.common_name.clone());
        if let Some(organisation) = self.organisation {
            parameters.distinguished_name.push(DnType::OrganizationName, organisation);
        }
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !self.server_names.is_empty() {
            parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        Ok(parameters)
    }
}

fn write_json(directory: &Path, name: &str, value: &Value) -> Result<()> {
    write(directory, name, &serde_json::to_vec_pretty(value)?)
}

fn write(directory: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, content)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::spec::Spec;

    #[test]
    fn keys_are_made_once_and_for_every_node() {
        let directory = std::env::temp_dir().join(format!("pki-{}", std::process::id()));
        let plan = Plan::new(&Spec::standard("main"), 0);
        let east = plan.cluster("east").unwrap();
        let pki = Pki::ensure(&directory, east).unwrap();
        let first = fs::read(pki.admin_kubeconfig()).unwrap();
        Pki::ensure(&directory, east).unwrap();
        assert_eq!(fs::read(pki.admin_kubeconfig()).unwrap(), first);
        for file in ["kubelet-east-1.kubeconfig", "kubelet-east-2.key", "sa.key", "apiserver.crt"] {
            assert!(pki.file(file).exists(), "{file}");
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
