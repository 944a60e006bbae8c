//! `bench-memory`: how much memory each of our processes holds while a slice with pods runs.
//!
//! A slice over both worker clusters with pods on every node; once all are attached and carry
//! packets, the resident size of every process of ours in the testbed's machines is read from
//! `/proc`, five times. Of several processes of a kind the largest counts. Needs root; uses the
//! testbed named by `SLICEWIRE_TESTBED`.

mod processes;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;
use slicewire_bench_report::{Better, Report, Runs, Table};
use slicewire_testbed::config::TOOLBOX_IMAGE;
use slicewire_tests::World;
use slicewire_tests::bench;
use slicewire_tests::story::say;
use slicewire_tests::world::{WORKERS, not_yet};

use crate::processes::{Process, processes};

const NAMESPACE: &str = "bench-memory";
const SLICE: &str = "memory";
const WHAT: &str = "resident size";
/// Each kind of process and its limit in MB.
const LIMITS: [(&str, f64); 6] = [
    ("netop-daemon", 30.0),
    ("slice-gateway", 30.0),
    ("router-sidecar", 15.0),
    ("nsm-injector", 20.0),
    ("controller hub", 60.0),
    ("controller worker", 60.0),
];

/// Measures the memory of every process of ours.
#[derive(Debug, Parser)]
#[command(name = "bench-memory")]
struct Args {
    /// Pods of the slice in each worker cluster.
    #[arg(long, default_value_t = 20)]
    pods: usize,
    /// How many times the sizes are read.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measure what there is, without a slice of its own.
    #[arg(long)]
    as_is: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(args.rounds > 0 && args.pods > 0, "every number must be at least 1");
    let world = bench::world()?;
    if !args.as_is {
        slice(&world, args.pods)?;
    }
    let mut runs = Runs::default();
    let mut last = Vec::new();
    for _ in 0..args.rounds {
        thread::sleep(Duration::from_secs(1));
        last = processes(&world)?;
        let mut largest: BTreeMap<&str, f64> = BTreeMap::new();
        for process in &last {
            let size = largest.entry(process.kind.as_str()).or_default();
            *size = size.max(process.resident);
        }
        for (kind, size) in largest {
            runs.push(&format!("{WHAT} of {kind}"), kind, size);
        }
    }
    if !args.as_is {
        clear(&world)?;
    }
    tell(&runs, &last)
}

/// A slice with pods on every node, that carries packets.
fn slice(world: &World, pods: usize) -> Result<()> {
    bench::namespaces(world, NAMESPACE)?;
    for cluster in WORKERS {
        let pod = json!({
            "terminationGracePeriodSeconds": 0,
            "topologySpreadConstraints": [{
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app": "web"}},
            }],
            "containers": [{"name": "main", "image": TOOLBOX_IMAGE, "imagePullPolicy": "Never"}],
        });
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {
                "replicas": pods,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod},
            },
        });
        world.apply(cluster, &deployment.to_string())?;
    }
    world.slice(SLICE, "10.93.0.0/16,fd93::/48", NAMESPACE)?;
    let [from, to] = WORKERS.map(|cluster| attached(world, cluster, pods));
    let (from, to) = (from?, to?);
    let to = world.addresses_now(WORKERS[1], NAMESPACE, &to, SLICE)?;
    for address in to {
        world.reaches((WORKERS[0], NAMESPACE, &from), address, 60)?;
    }
    say(&format!("{pods} pods in each cluster are attached and reach each other"));
    Ok(())
}

/// Waits for the pods; one of them.
fn attached(world: &World, cluster: &str, pods: usize) -> Result<String> {
    World::wait(&format!("{pods} pods of {cluster} are attached"), 120, || {
        let list = world.get(cluster, &format!("-n {NAMESPACE} pods"))?;
        let items = list["items"].as_array().context("no list")?;
        let status = |pod: &serde_json::Value| {
            let annotations = &pod["metadata"]["annotations"];
            annotations["k8s.v1.cni.cncf.io/network-status"].to_string()
        };
        let done =
            items.iter().filter(|p| status(p).contains(SLICE) && p["status"]["phase"] == "Running");
        let names: Vec<&str> = done.filter_map(|p| p["metadata"]["name"].as_str()).collect();
        match names.first() {
            Some(first) if names.len() >= pods => Ok((*first).to_owned()),
            _ => not_yet(format!("{} are", names.len())),
        }
    })
}

fn clear(world: &World) -> Result<()> {
    world.delete_slice(SLICE)?;
    bench::remove_namespaces(world, NAMESPACE);
    Ok(())
}

fn tell(runs: &Runs, last: &[Process]) -> Result<ExitCode> {
    let out = &mut io::stdout().lock();
    let mut table = Table::new(["process", "machine", "MB resident", "MB at most so far"]);
    for process in last {
        let mb = |value: f64| format!("{value:.1}");
        let (kind, machine) = (process.kind.clone(), process.machine.clone());
        table.row([kind, machine, mb(process.resident), mb(process.peak)]);
    }
    table.print(out)?;
    writeln!(out)?;
    let mut report = Report::new("memory");
    for (kind, limit) in LIMITS {
        report.limit(runs, &format!("{WHAT} of {kind}"), "MB", Better::Lower, kind, limit);
    }
    report.failures(runs);
    Ok(report.finish(out)?.exit_code())
}
