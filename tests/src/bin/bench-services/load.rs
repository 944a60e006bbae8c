//! Services and endpoints into the kernel, and single changes of them.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Result;
use slicewire_bench_report::{Better, Report, Runs};
use slicewire_core::service::translate::{Parts, Translation};
use slicewire_kernel::{Filter, Kernel, Network as _};
use slicewire_tests::bench::router::Lab;

use crate::service::{World, name};
use crate::{Args, proxy};

/// Each change is measured this often in a round.
const CHANGES: u32 = 20;
/// Changes by `nft` take longer.
const THEIR_CHANGES: u32 = 5;
const LOAD: &str = "all services into the kernel";
const GOES: &str = "one endpoint goes, worked out and in the kernel";
const COMES: &str = "one endpoint comes, worked out and in the kernel";
const REPLACED: &str = "one endpoint is replaced, worked out and in the kernel";
const REMOVED: &str = "one service goes, worked out and in the kernel";
const ADDED: &str = "one service comes, worked out and in the kernel";
/// Who is measured.
pub(crate) const OURS: &str = "ours";
/// Who is compared with.
pub(crate) const PROXY: &str = "kube-proxy's rules";

/// Measures all of it in rounds, in a namespace that is made anew for each.
pub(crate) async fn measure(args: &Args, runs: &mut Runs) -> Result<()> {
    let name = format!("swbench-load-{}", std::process::id());
    let kernel = Kernel::new();
    for _ in 0..args.rounds {
        let ns = kernel.create(&name).await?;
        let filter = Filter::open(ns.id()).await?;
        let result = once(args, &filter, runs).await;
        drop((filter, ns));
        kernel.delete(&name).await?;
        result?;
    }
    Ok(())
}

async fn once(args: &Args, filter: &Filter, runs: &mut Runs) -> Result<()> {
    let world = World::new()?;
    let mut node = Node { parts: Parts::default(), filter };
    let start = Instant::now();
    let all = (0..args.services).map(|s| (s, Some(world.part(s, 0..args.endpoints))));
    node.change(all).await?;
    push(runs, LOAD, start);
    for number in 0..CHANGES {
        let service = number * 997 % args.services;
        let without = number % args.endpoints;
        let some = || (0..args.endpoints).filter(move |e| *e != without);
        let steps: [(&str, Option<Vec<u32>>); 5] = [
            (GOES, Some(some().collect())),
            (COMES, Some((0..args.endpoints).collect())),
            (REPLACED, Some(some().chain([args.endpoints]).collect())),
            (REMOVED, None),
            (ADDED, Some((0..args.endpoints).collect())),
        ];
        for (what, endpoints) in steps {
            let start = Instant::now();
            let part = endpoints.map(|endpoints| world.part(service, endpoints.into_iter()));
            node.change([(service, part)].into_iter()).await?;
            push(runs, what, start);
        }
    }
    Ok(())
}

/// What a daemon does with services that changed.
struct Node<'a> {
    parts: Parts,
    filter: &'a Filter,
}

impl Node<'_> {
    async fn change(
        &mut self,
        services: impl Iterator<Item = (u32, Option<Translation>)>,
    ) -> Result<()> {
        let changes = services.map(|(number, part)| (name(number), part)).collect();
        let delta = self.parts.change(changes, BTreeSet::new());
        Ok(self.filter.translate(delta).await?)
    }
}

fn push(runs: &mut Runs, what: &str, start: Instant) {
    runs.push(what, OURS, start.elapsed().as_secs_f64() * 1e3);
}

/// Loads kube-proxy's rules, which takes long enough to be done once, and changes them.
pub(crate) fn theirs(args: &Args, lab: &Lab, all: &str, runs: &mut Runs) -> Result<()> {
    let mut nft = |what: &str, commands: &str| -> Result<()> {
        let start = Instant::now();
        lab.shell("nft -f -", commands)?;
        runs.push(what, PROXY, start.elapsed().as_secs_f64() * 1e3);
        Ok(())
    };
    nft(LOAD, all)?;
    for number in 0..THEIR_CHANGES {
        let service = number * 997 % args.services;
        nft(REPLACED, &proxy::replace(service, args.endpoints))?;
    }
    Ok(())
}

/// Adds what was measured to the report, with its goals.
pub(crate) fn tell(runs: &Runs, report: &mut Report) {
    report.limit(runs, LOAD, "ms", Better::Lower, OURS, 2000.0);
    for what in [GOES, COMES, REPLACED, REMOVED, ADDED] {
        report.limit(runs, what, "ms", Better::Lower, OURS, 5.0);
    }
}

/// Adds what was measured of kube-proxy's rules.
pub(crate) fn tell_theirs(runs: &Runs, report: &mut Report) {
    for what in [LOAD, REPLACED] {
        report.compare(runs, what, "ms", Better::Lower, OURS, PROXY, None);
    }
}
