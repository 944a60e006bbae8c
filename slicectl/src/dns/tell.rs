//! `slicectl dns`: whether the cluster's DNS asks the nodes for names of slices.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use kube::Client;

use slicewire_api::cluster_dns::SERVICE;
use slicewire_core::dns::corefile::{Leads, LeftOut, Wanted, advice, leads, reloads};

use super::{ENTRY, NAME, PLACE, cache, config, corefile, not_coredns, wanted};
use crate::cluster::ClusterArguments;

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
    let Some(wanted) = wanted::read(&client).await? else {
        writeln!(out, "nodes: answer no questions: there is no Service {SERVICE}")?;
        return Ok(ExitCode::from(2));
    };
    let addresses: Vec<String> = wanted.servers.iter().map(IpAddr::to_string).collect();
    writeln!(out, "nodes: are asked at {} (Service {SERVICE})", addresses.join(", "))?;
    let (asked, left_out) = coredns(&client, &wanted).await?;
    writeln!(out, "{}", line("CoreDNS", &asked))?;
    for one in left_out {
        writeln!(out, "! {one}")?;
    }
    let cache = cache::leads(&client, &wanted).await?;
    match &cache {
        None => {}
        Some(Ok(())) => writeln!(out, "NodeLocal DNSCache: asks the nodes")?,
        Some(Err(advice)) => writeln!(out, "{advice}")?,
    }
    let fine = asked.is_ok() && cache.is_none_or(|cache| cache.is_ok());
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn line(who: &str, asked: &Result<String, String>) -> String {
    let (Ok(text) | Err(text)) = asked;
    format!("{who}: {}", text.trim_end())
}

/// How CoreDNS asks the nodes, or what to do that it does; and which reverse names it asks others for.
async fn coredns(
    client: &Client,
    wanted: &Wanted,
) -> Result<(Result<String, String>, Vec<LeftOut>)> {
    let Some(map) = config(client, NAME).await? else {
        return Ok((Err(not_coredns(wanted)), vec![]));
    };
    let corefile = corefile(&map);
    let (leads, left_out) = leads(&corefile, wanted);
    Ok((asked(&leads, wanted, reloads(&corefile)), left_out))
}

fn asked(leads: &Leads, wanted: &Wanted, reloads: bool) -> Result<String, String> {
    let place = format!("the entry {ENTRY} of ConfigMap {PLACE}/{NAME}");
    match leads {
        Leads::Here => Ok("asks the nodes, by slicewire's block".to_owned()),
        Leads::HereByHand(missing) => {
            let by_hand = "asks the nodes, by a block that is not slicewire's";
            Ok(match missing.join(" ") {
                none if none.is_empty() => by_hand.to_owned(),
                zones => format!("{by_hand}; for names of addresses add to its zones: {zones}"),
            })
        }
        Leads::Behind if reloads => Err(
            "asks the nodes, but not for the addresses of all slices: the worker's log tells why its block was not changed".to_owned(),
        ),
        Leads::Behind => Err(
            "asks the nodes, but not for the addresses of all slices: its plugin 'reload' is off, so that changes wait for 'slicectl join'".to_owned(),
        ),
        Leads::Outdated => Err(format!(
            "asks other addresses than the Service's: run 'slicectl join' again, or write them into {place}"
        )),
        Leads::Elsewhere(zone) => Err(format!(
            "asks somebody else for {zone}: let its block in {place} forward to the nodes"
        )),
        Leads::Nowhere(zone) => Err(format!(
            "does not know {zone}: run 'slicectl join' again, or add this to {place}:\n{}",
            advice(wanted)
        )),
        Leads::Broken(refusal) => Err(refusal.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_nodes_comes_with_what_to_do() {
        let servers = vec!["10.96.0.9".parse().unwrap()];
        let prefixes = ["10.77.0.0/16".parse().unwrap()].into();
        let wanted = Wanted { servers, prefixes, own: vec![] };
        let zone = "slice.local";
        let missing = "77.10.in-addr.arpa";
        assert!(asked(&Leads::Here, &wanted, true).is_ok());
        let by_hand = |missing| asked(&Leads::HereByHand(missing), &wanted, true).unwrap();
        assert!(!by_hand(vec![]).contains("add"));
        assert!(by_hand(vec![missing.to_owned()]).ends_with(missing));
        for (leads, words) in [
            (Leads::Outdated, "slicectl join"),
            (Leads::Behind, "slicectl join"),
            (Leads::Elsewhere(zone), "slice.local: let its block"),
            (Leads::Nowhere(zone), "slice.local:53 77.10.in-addr.arpa:53 {\n"),
            (Leads::Nowhere(zone), "    forward . 10.96.0.9\n"),
        ] {
            let advice = asked(&leads, &wanted, false).unwrap_err();
            assert!(advice.contains(words), "{advice}");
        }
    }
}
