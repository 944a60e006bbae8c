//! What 'slicectl join' does with a join string.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::{Client, Config};
use slicewire_core::name::ClusterName;
use slicewire_core::violation::summary;
use slicewire_ticket::Ticket;

/// The name to join under: as asked for, or the only one the ticket is for.
///
/// # Errors
/// It is for several, and none was said; or what was said is none.
pub(crate) fn name_to_join(ticket: &Ticket, asked: Option<&str>) -> Result<ClusterName> {
    match asked {
        Some(text) => ClusterName::parse(text)
            .map_err(|faults| anyhow::anyhow!("--cluster: {}", summary(&faults))),
        None => ticket.clusters.only().with_context(|| {
            let pattern = &ticket.clusters;
            format!("the token is for clusters named {pattern}; say which with --cluster")
        }),
    }
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

#[cfg(test)]
mod tests {
    use slicewire_core::join::Pattern;
    use slicewire_core::name::ProjectName;

    use super::*;

    #[test]
    fn a_token_for_one_cluster_names_it() {
        let ticket = |clusters: &str| Ticket {
            server: "https://hub.example:6443".into(),
            authorities: vec![],
            project: ProjectName::parse("demo").unwrap(),
            name: "t-1".into(),
            clusters: Pattern::parse("c", clusters).unwrap(),
            expires: 1_800_000_000,
            secret: "aaa.bbb.ccc".into(),
        };
        assert_eq!(name_to_join(&ticket("east"), None).unwrap().as_str(), "east");
        let error = name_to_join(&ticket("edge-*"), None).unwrap_err().to_string();
        assert!(error.contains("edge-*") && error.contains("--cluster"), "{error}");
        assert!(name_to_join(&ticket("edge-*"), Some("A")).is_err());
    }
}
