//! The one string a cluster joins with: where the hub is, by what it is known, and the secret.
//!
//! `slicewire1.<facts>.<authorities>.<secret>`: facts are JSON, authorities the DER certificates of
//! the hub's authority separated by `~`, both in base64url; the secret is a ServiceAccount token of
//! the hub, which has two dots of its own.
//!
//! Security: who holds the string may join. It is put together where it is shown, and stored nowhere.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use slicewire_core::join::Pattern;
use slicewire_core::name::{ProjectName, token_namespace};
use slicewire_core::violation::summary;

/// How every string begins; the number is its form.
const HEAD: &str = "slicewire1";
/// Shortest life that an API server gives a token, in seconds; the hub ends it sooner if need be.
const LEAST_LIFE: i64 = 600;
/// Longest URL of a hub, in bytes.
const MAX_SERVER: usize = 2_048;

/// What the string says.
#[derive(Clone, PartialEq)]
pub struct Ticket {
    /// The hub's URL as the worker reaches it.
    pub server: String,
    /// DER certificates the hub is trusted by; none: those of the machine.
    pub authorities: Vec<Vec<u8>>,
    /// The project to join.
    pub project: ProjectName,
    /// The JoinToken's name.
    pub name: String,
    /// Which clusters it is for.
    pub clusters: Pattern,
    /// When it ends, in seconds since 1970, by the hub's clock.
    pub expires: i64,
    /// The secret.
    pub secret: String,
}

/// Why something is no join string, or cannot be part of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It is something else.
    #[error(
        "this is not a join string: it does not begin with {HEAD}.; copy it whole, as 'slicectl token create' printed it"
    )]
    NotATicket,
    /// Its end is missing.
    #[error("the join string is cut off; copy it whole, as 'slicectl token create' printed it")]
    CutOff,
    /// It does not read.
    #[error("the join string is damaged{0}; copy it whole, as 'slicectl token create' printed it")]
    Damaged(String),
    /// Its hub is spoken to without TLS.
    #[error("the join string's hub is not an https URL")]
    NotHttps,
    /// A hub's URL that is none.
    #[error("the hub's URL {0} does not begin with https://")]
    Server(String),
    /// A hub's URL that leads clusters to themselves.
    #[error("the hub's URL {0} means the machine that uses it, whichever that is")]
    Local(String),
    /// An authority that is none.
    #[error("the hub's authority is not a PEM certificate")]
    Authority,
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
    pub fn print(&self) -> Result<String, TicketError> {
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
        let facts = serde_json::to_vec(&facts).map_err(damaged)?;
        Ok(format!("{HEAD}.{}.{rest}", URL_SAFE_NO_PAD.encode(facts)))
    }

    /// Reads the string; spaces and line ends that a terminal or a mail put in do not matter.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TicketError> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (head, rest) = text.split_once('.').unwrap_or((text.as_str(), ""));
        if head != HEAD {
            return Err(TicketError::NotATicket);
        }
        let (facts, rest) = rest.split_once('.').ok_or(TicketError::CutOff)?;
        let facts = URL_SAFE_NO_PAD.decode(facts).map_err(damaged)?;
        let facts: Facts = serde_json::from_slice(&facts).map_err(damaged)?;
        if rest.len() != facts.n {
            return Err(TicketError::CutOff);
        }
        let (authorities, secret) = rest.split_once('.').ok_or(TicketError::CutOff)?;
        let authorities = authorities.split('~').filter(|part| !part.is_empty());
        let authorities = authorities.map(|part| URL_SAFE_NO_PAD.decode(part).map_err(damaged));
        let clusters = Pattern::parse("clusters", &facts.c).map_err(|f| damaged(summary(&f)))?;
        if !facts.s.starts_with("https://") {
            return Err(TicketError::NotHttps);
        }
        Ok(Self {
            server: facts.s,
            authorities: authorities.collect::<Result<_, _>>()?,
            project: facts.p,
            name: facts.t,
            clusters,
            expires: facts.e,
            secret: secret.to_owned(),
        })
    }

    /// The hub namespace it opens.
    pub fn namespace(&self) -> String {
        token_namespace(&self.project, &self.name)
    }

    /// The hub's authorities in PEM, as they are kept; empty where the machine's own are used.
    pub fn authorities_pem(&self) -> String {
        self.authorities.iter().map(|der| pem(der)).collect()
    }
}

/// Without the secret, so that no log holds it.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, project, name, .. } = self;
        write!(f, "Ticket({name} of {project} at {server})")
    }
}

fn damaged(why: impl fmt::Display) -> TicketError {
    TicketError::Damaged(format!(": {why}"))
}

/// The hub's URL as clusters are to reach it, without what says nothing. One that was not `asked` for
/// may not mean the machine it is read on.
///
/// # Errors
/// It is of no use to clusters.
pub fn server(url: &str, asked: bool) -> Result<String, TicketError> {
    let host = url.strip_prefix("https://").unwrap_or_default();
    let plain = url.bytes().all(|b| b.is_ascii_graphic());
    if host.is_empty() || !plain || url.len() > MAX_SERVER {
        return Err(TicketError::Server(slicewire_core::member::sentence(url)));
    }
    let local = ["localhost", "127.", "[::1]", "0.0.0.0"];
    if !asked && local.iter().any(|l| host.starts_with(l)) {
        return Err(TicketError::Local(url.to_owned()));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// What the API server is asked for the secret with: a token of the account that may do nothing but
/// ask to join.
pub fn secret_request(life_seconds: i64) -> TokenRequest {
    TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(life_seconds.max(LEAST_LIFE)),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    }
}

/// Certificates out of PEM.
///
/// # Errors
/// It holds something that is none.
pub fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, TicketError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| Ok(der.map_err(|_| TicketError::Authority)?.to_vec()))
        .collect()
}

/// A certificate in PEM (RFC 7468): base64 in lines of 64.
pub fn pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines = body.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines: Vec<_> = lines.collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
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
            let error = Ticket::parse(&text[..end]).unwrap_err().to_string();
            assert!(error.contains("copy it whole"), "{end}: {error}");
        }
    }

    #[test]
    fn no_log_holds_the_secret() {
        let text = format!("{:?}", ticket());
        assert!(text.contains("t-1") && !text.contains("bbb"), "{text}");
    }

    #[test]
    fn a_url_of_this_machine_is_refused_unless_it_is_asked_for() {
        for local in ["https://127.0.0.1:6443", "https://localhost", "http://hub", "https://"] {
            assert!(server(local, false).is_err(), "{local}");
        }
        assert_eq!(server("https://127.0.0.1:6443/", true).unwrap(), "https://127.0.0.1:6443");
        for none in ["http://hub", "hub", "https://h ub", "https://hub\n", ""] {
            assert!(server(none, true).is_err(), "{none}");
        }
    }

    #[test]
    fn pem_lines_are_64_long_and_are_read_again() {
        let text = pem(&[7; 100]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.first(), Some(&"-----BEGIN CERTIFICATE-----"));
        assert_eq!(lines[1].len(), 64);
        assert_eq!(lines.last(), Some(&"-----END CERTIFICATE-----"));
        assert_eq!(certificates(&text.repeat(2)).unwrap(), [[7; 100], [7; 100]]);
        let broken = text.replace("BwcH", "Bw!H");
        assert_eq!(certificates(&broken), Err(TicketError::Authority));
    }
}
