//! Packets to a virtual address, to the pod's own through the same router, and to a virtual address
//! of kube-proxy's rules; each among all the other services.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::Result;
use slicewire_bench_report::{Better, Report, Runs, rotation};
use slicewire_core::service::translate::Parts;
use slicewire_tests::bench::router::{ECHO_PORT, Lab, Place, STREAM_PORT};

use crate::load::{self, PROXY};
use crate::service::{World, name};
use crate::{Args, proxy};

const VIRTUAL: &str = "virtual address";
const DIRECT: &str = "the pod's address";
const CANDIDATES: [&str; 3] = [VIRTUAL, DIRECT, PROXY];
const THROUGHPUT: &str = "TCP, one stream";
const CONNECTIONS: &str = "connections, one after the other";
const ROUND_TRIP: &str = "round trip on a connection, median";
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
/// The virtual address that leads to the server.
const FRONT: Ipv4Addr = Ipv4Addr::new(10, 239, 0, 1);

/// Measures all candidates in turn: two routers with pods of their own, and either's rules in one.
pub(crate) async fn measure(args: &Args, runs: &mut Runs) -> Result<()> {
    let ours = Lab::new("ours", places()).await?;
    let theirs = Lab::new("theirs", places()).await;
    let measured = match &theirs {
        Ok(theirs) => rounds(args, &ours, theirs, runs).await,
        Err(_) => Ok(()),
    };
    ours.remove().await?;
    theirs?.remove().await?;
    measured
}

fn places() -> [Place; 2] {
    [CLIENT, SERVER].map(|v4| {
        let last = v4.octets()[3];
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(last));
        Place {
            device: format!("swp{last}"),
            mac: [2, 0, 0, 1, 0, last],
            addresses: [v4.into(), v6.into()],
        }
    })
}

async fn rounds(args: &Args, ours: &Lab, theirs: &Lab, runs: &mut Runs) -> Result<()> {
    load_ours(args, ours).await?;
    load::theirs(args, theirs, &their_rules(args), runs)?;
    for round in 0..args.rounds {
        for index in rotation(CANDIDATES.len(), round) {
            let who = CANDIDATES[index];
            let lab = if who == PROXY { theirs } else { ours };
            let to = if who == DIRECT { SERVER } else { FRONT };
            once(args, lab, who, to, runs);
        }
    }
    Ok(())
}

async fn load_ours(args: &Args, lab: &Lab) -> Result<()> {
    let world = World::new()?;
    let ports = [STREAM_PORT, ECHO_PORT].map(|port| (port, port));
    let front = world.lead(FRONT.into(), &BTreeMap::from(ports), vec![SERVER.into()]);
    let all = (0..args.services).map(|s| (name(s), Some(world.part(s, 0..args.endpoints))));
    let changes = all.chain([("front".into(), Some(front))]).collect();
    let own = [CLIENT.into(), SERVER.into()].into();
    Ok(lab.filter.translate(Parts::default().change(changes, own)).await?)
}

fn their_rules(args: &Args) -> String {
    let mut text = proxy::all(args.services, args.endpoints);
    for port in [STREAM_PORT, ECHO_PORT] {
        proxy::add(&mut text, FRONT, port, &[SocketAddrV4::new(SERVER, port)]);
    }
    text
}

fn once(args: &Args, lab: &Lab, who: &str, to: Ipv4Addr, runs: &mut Runs) {
    let mut note = |what: &str, measured: Result<f64>| match measured {
        Ok(value) => runs.push(what, who, value),
        Err(error) => runs.fail(what, who, format!("{error:#}")),
    };
    let time = Duration::from_secs(args.seconds);
    let (stream, echo) = (SocketAddr::from((to, STREAM_PORT)), SocketAddr::from((to, ECHO_PORT)));
    note(THROUGHPUT, lab.throughput(stream, args.seconds));
    note(CONNECTIONS, lab.connections(echo, SERVER.into(), time));
    note(ROUND_TRIP, lab.round_trip(echo, SERVER.into(), time));
}

/// Adds what was measured to the report, with its goals.
pub(crate) fn tell(runs: &Runs, report: &mut Report) {
    let rows = [
        (THROUGHPUT, "Gbit/s", Better::Higher),
        (CONNECTIONS, "1/s", Better::Higher),
        (ROUND_TRIP, "us", Better::Lower),
    ];
    for (what, unit, better) in rows {
        report.compare(runs, what, unit, better, VIRTUAL, DIRECT, Some(0.98));
        report.compare(runs, what, unit, better, VIRTUAL, PROXY, None);
    }
}
