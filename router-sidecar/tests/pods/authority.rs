//! What the cluster's controller does for gateways and nodes: certificates.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use slicewire_core::name::{SliceName, gateway_server_name};
use slicewire_rpc::tls::{AUTHORITIES, CERTIFICATE, Credentials, KEY};
use tonic::transport::ClientTlsConfig;

/// The cluster's authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        // Programs that see subject and issuer named alike take a certificate for self-signed.
        parameters.distinguished_name.push(DnType::CommonName, "authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// Writes what is mounted into a gateway of slice blue.
    pub(crate) fn gateway(&self, directory: &Path) {
        write(directory, self.sign(ExtendedKeyUsagePurpose::ServerAuth));
    }

    /// Writes what a node shows.
    pub(crate) fn node_files(&self, directory: &Path) {
        write(directory, self.sign(ExtendedKeyUsagePurpose::ClientAuth));
    }

    /// How a node connects to a gateway of slice blue.
    pub(crate) fn node(&self) -> ClientTlsConfig {
        self.sign(ExtendedKeyUsagePurpose::ClientAuth).client(&blue())
    }

    fn sign(&self, usage: ExtendedKeyUsagePurpose) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec![blue()]).unwrap();
        leaf.extended_key_usages = vec![usage];
        Credentials {
            authorities: self.pem.clone(),
            certificate: leaf.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

fn blue() -> String {
    gateway_server_name(&SliceName::parse("blue").unwrap())
}

fn write(directory: &Path, made: Credentials) {
    for (name, text) in
        [(AUTHORITIES, made.authorities), (CERTIFICATE, made.certificate), (KEY, made.key)]
    {
        std::fs::write(directory.join(name), text).unwrap();
    }
}
