//! The one string a cluster joins with: where the hub is, by what it is known, and the secret.
//!
//! `slicewire1.<facts>.<authorities>.<secret>`: facts are JSON, authorities the DER certificates of
//! the hub's authority separated by `~`, both in base64url; the secret is a ServiceAccount token of
//! the hub, which has two dots of its own.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use slicewire_core::join::Pattern;
use slicewire_core::name::{ClusterName, ProjectName, token_namespace};
use slicewire_core::violation::summary;

/// How every string begins; the number is its form.
const HEAD: &str = "slicewire1";
/// How a whole string is got, for messages.
const AGAIN: &str = "copy it whole, as 'slicectl token create' printed it";

/// What the string says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ticket {
    /// The hub's URL as the worker reaches it.
    pub(crate) server: String,
    /// DER certificates the hub is trusted by; none: those of the machine.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// The project to join.
    pub(crate) project: ProjectName,
    /// The JoinToken's name.
    pub(crate) name: String,
    /// Which clusters it is for.
    pub(crate) clusters: Pattern,
    /// When it ends, in seconds since 1970, by the hub's clock.
    pub(crate) expires: i64,
    /// The secret.
    pub(crate) secret: String,
}

/// What of it is written as JSON, in short: people paste it.
#[derive(Serialize, Deserialize)]
struct Facts {
    s: String,
    p: ProjectName,
    t: String,
    c: String,
    e: i64,
    /// Bytes behind the facts: a string that was cut off is told from one that is not valid.
    n: usize,
}

impl Ticket {
    /// The string.
    ///
    /// # Errors
    /// None that can be thought of: facts become JSON always.
    pub(crate) fn print(&self) -> Result<String> {
        let encoded: Vec<String> =
            self.authorities.iter().map(|der| URL_SAFE_NO_PAD.encode(der)).collect();
        let rest = format!("{}.{}", encoded.join("~"), self.secret);
        let facts = Facts {
            s: self.server.clone(),
            p: self.project.clone(),
            t: self.name.clone(),
            c: self.clusters.to_string(),
            e: self.expires,
            n: rest.len(),
        };
        let facts = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&facts)?);
        Ok(format!("{HEAD}.{facts}.{rest}"))
    }

    /// Reads the string; spaces and line ends that a terminal or a mail put in do not matter.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (head, rest) = text.split_once('.').unwrap_or((text.as_str(), ""));
        ensure!(head == HEAD, "this is not a join string: it does not begin with {HEAD}.; {AGAIN}");
        let (facts, rest) = rest.split_once('.').with_context(cut_off)?;
        let damaged = || format!("the join string is damaged; {AGAIN}");
        let facts = URL_SAFE_NO_PAD.decode(facts).with_context(damaged)?;
        let facts: Facts = serde_json::from_slice(&facts).with_context(damaged)?;
        ensure!(rest.len() == facts.n, cut_off());
        let (authorities, secret) = rest.split_once('.').with_context(cut_off)?;
        let authorities = authorities.split('~').filter(|part| !part.is_empty());
        let authorities = authorities.map(|part| URL_SAFE_NO_PAD.decode(part));
        let clusters = match Pattern::parse("clusters", &facts.c) {
            Ok(pattern) => pattern,
            Err(faults) => bail!("{}: {}", damaged(), summary(&faults)),
        };
        ensure!(facts.s.starts_with("https://"), "the join string's hub is not an https URL");
        Ok(Self {
            server: facts.s,
            authorities: authorities.collect::<Result<_, _>>().with_context(damaged)?,
            project: facts.p,
            name: facts.t,
            clusters,
            expires: facts.e,
            secret: secret.to_owned(),
        })
    }

    /// The hub namespace it opens.
    pub(crate) fn namespace(&self) -> String {
        token_namespace(&self.project, &self.name)
    }

    /// The name to join under: as asked for, or the only one it is for.
    ///
    /// # Errors
    /// It is for several, and none was said; or what was said is none.
    pub(crate) fn cluster(&self, asked: Option<&str>) -> Result<ClusterName> {
        match asked {
            Some(text) => ClusterName::parse(text)
                .map_err(|faults| anyhow::anyhow!("--cluster: {}", summary(&faults))),
            None => self.clusters.only().with_context(|| {
                let pattern = &self.clusters;
                format!("the token is for clusters named {pattern}; say which with --cluster")
            }),
        }
    }

    /// The hub's authorities in PEM, as they are kept; empty where the machine's own are used.
    pub(crate) fn authorities_pem(&self) -> String {
        self.authorities.iter().map(|der| crate::cluster::pem(der)).collect()
    }
}

fn cut_off() -> String {
    format!("the join string is cut off; {AGAIN}")
}

/// A client of the hub with a token.
///
/// # Errors
/// The URL or the certificates are none.
pub(crate) fn hub_client(server: &str, authorities: &[Vec<u8>], token: &str) -> Result<Client> {
    let url = server.parse().with_context(|| format!("{server} is not a URL"))?;
    let mut config = Config::new(url);
    config.root_cert = (!authorities.is_empty()).then(|| authorities.to_vec());
    config.auth_info.token = Some(token.to_owned().into());
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(20));
    Client::try_from(config).context("the hub's certificates cannot be used")
}

/// Certificates out of PEM.
///
/// # Errors
/// It holds something that is none.
pub(crate) fn certificates(pem: &str) -> Result<Vec<Vec<u8>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| Ok(der.context("the hub's authority is not a PEM certificate")?.to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            server: "https://hub.example:6443".into(),
            authorities: vec![vec![1, 2, 255], vec![7; 40]],
            project: ProjectName::parse("demo").unwrap(),
            name: "t-1".into(),
            clusters: Pattern::parse("c", "edge-*").unwrap(),
            expires: 1_800_000_000,
            secret: "aaa.bbb.ccc".into(),
        }
    }

    #[test]
    fn what_is_printed_is_read_again_even_wrapped() {
        let text = ticket().print().unwrap();
        assert_eq!(Ticket::parse(&text).unwrap(), ticket());
        let wrapped: Vec<String> =
            text.as_bytes().chunks(40).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
        assert_eq!(Ticket::parse(&format!("  {}\n", wrapped.join("\r\n "))).unwrap(), ticket());
        let bare = Ticket { authorities: vec![], ..ticket() };
        assert_eq!(Ticket::parse(&bare.print().unwrap()).unwrap(), bare);
        assert!(!text.contains(['/', '+', '=', ' ', '$']), "it needs no quotes: {text}");
    }

    #[test]
    fn every_part_that_is_cut_off_is_noticed() {
        let text = ticket().print().unwrap();
        for end in 0..text.len() {
            let error = format!("{:#}", Ticket::parse(&text[..end]).unwrap_err());
            assert!(error.contains("copy it whole"), "{end}: {error}");
        }
    }

    #[test]
    fn a_token_for_one_cluster_names_it() {
        let one = Ticket { clusters: Pattern::parse("c", "east").unwrap(), ..ticket() };
        assert_eq!(one.cluster(None).unwrap().as_str(), "east");
        let error = ticket().cluster(None).unwrap_err().to_string();
        assert!(error.contains("edge-*") && error.contains("--cluster"), "{error}");
        assert!(ticket().cluster(Some("A")).is_err());
    }
}
