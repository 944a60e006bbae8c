//! `slicectl dns`: whether the cluster's DNS asks the nodes for names of slices.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use kube::Client;

use super::{
    ENTRY, NAME, PLACE, SERVICE, config, corefile, node_local_leads, not_coredns, servers,
};
use crate::cluster::ClusterArguments;
use crate::corefile::{Leads, block, leads};

/// Which cluster to look at.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// Prints who asks the nodes and who does not, and what to do about that; exit status 0 when all do, 2
/// when not.
///
/// # Errors
/// The cluster cannot be read.
pub(crate) async fn tell(arguments: Arguments) -> Result<ExitCode> {
    let client = arguments.cluster.connect().await?.client;
    let mut out = io::stdout().lock();
    let Some(servers) = servers(&client).await? else {
        writeln!(out, "nodes: answer no questions: there is no Service {SERVICE}")?;
        return Ok(ExitCode::from(2));
    };
    let addresses: Vec<String> = servers.iter().map(IpAddr::to_string).collect();
    writeln!(out, "nodes: are asked at {} (Service {SERVICE})", addresses.join(", "))?;
    let asked = coredns(&client, &servers).await?;
    writeln!(out, "{}", line("CoreDNS", &asked))?;
    let cache = node_local_leads(&client, &servers).await?;
    if let Some(cache) = &cache {
        let asked = cache.as_ref().map(|()| "asks the nodes".to_owned()).map_err(String::clone);
        writeln!(out, "{}", line("NodeLocal DNSCache", &asked))?;
    }
    let fine = asked.is_ok() && cache.is_none_or(|cache| cache.is_ok());
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn line(who: &str, asked: &Result<String, String>) -> String {
    let (Ok(text) | Err(text)) = asked;
    format!("{who}: {}", text.trim_end())
}

/// How CoreDNS asks the nodes, or what to do that it does.
async fn coredns(client: &Client, servers: &[IpAddr]) -> Result<Result<String, String>> {
    let Some(map) = config(client, NAME).await? else { return Ok(Err(not_coredns(servers))) };
    Ok(asked(&leads(&corefile(&map), servers), servers))
}

fn asked(leads: &Leads, servers: &[IpAddr]) -> Result<String, String> {
    let place = format!("the entry {ENTRY} of ConfigMap {PLACE}/{NAME}");
    match leads {
        Leads::Here => Ok("asks the nodes, by slicewire's block".to_owned()),
        Leads::HereByHand => Ok("asks the nodes, by a block that is not slicewire's".to_owned()),
        Leads::Outdated => Err(format!(
            "asks other addresses than the Service's: run 'slicectl join' again, or write them into {place}"
        )),
        Leads::Elsewhere(zone) => Err(format!(
            "asks somebody else for {zone}: let its block in {place} forward to the nodes"
        )),
        Leads::Nowhere(zone) => Err(format!(
            "does not know {zone}: run 'slicectl join' again, or add this to {place}:\n{}",
            block(servers)
        )),
        Leads::Broken(refusal) => Err(refusal.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_nodes_comes_with_what_to_do() {
        let servers = ["10.96.0.9".parse().unwrap()];
        let zone = "slice.local";
        assert!(
            asked(&Leads::Here, &servers).is_ok() && asked(&Leads::HereByHand, &servers).is_ok()
        );
        for (leads, words) in [
            (Leads::Outdated, "slicectl join"),
            (Leads::Elsewhere(zone), "slice.local: let its block"),
            (Leads::Nowhere(zone), "    forward . 10.96.0.9\n"),
        ] {
            let advice = asked(&leads, &servers).unwrap_err();
            assert!(advice.contains(words), "{advice}");
        }
    }
}
