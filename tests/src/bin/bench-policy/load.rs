//! Rules and endpoints into the kernel, and changes of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use slicewire_bench_report::{Better, Report, Runs};
use slicewire_core::policy::{Compiler, Delta, EndpointChange};
use slicewire_kernel::{Filter, Kernel, Network as _};

use crate::Args;
use crate::slice::{self, Shape};

/// One endpoint's and one policy's change are measured this often in a round.
const CHANGES: usize = 20;

/// Measures one shape.
pub(crate) async fn measure(args: &Args, shape: Shape, runs: &mut Runs) -> Result<()> {
    let name = format!("swbench-{}", std::process::id());
    let kernel = Kernel::new();
    for round in 0..args.rounds {
        let ns = kernel.create(&name).await?;
        let filter = Filter::open(ns.id()).await?;
        let result = once(args, shape, round, &filter, runs).await;
        drop((filter, ns));
        kernel.delete(&name).await?;
        result?;
    }
    Ok(())
}

fn what(what: &str, shape: Shape) -> String {
    format!("{what}, {}", shape.name())
}

fn push(runs: &mut Runs, name: &str, shape: Shape, time: Duration) {
    runs.push(&what(name, shape), "ours", time.as_secs_f64() * 1e3);
}

async fn once(
    args: &Args,
    shape: Shape,
    round: usize,
    filter: &Filter,
    runs: &mut Runs,
) -> Result<()> {
    let apps = slice::apps(args.endpoints);
    let mut policies = slice::policies(shape, args.rules, args.pods, apps);
    let endpoints = slice::endpoints(args.endpoints, args.pods)?;

    let start = Instant::now();
    let mut compiler = Compiler::new(1);
    compiler.change_endpoints(endpoints);
    compiler.set_situation(slice::situation(policies.clone(), args.pods));
    push(runs, COMPILE, shape, start.elapsed());

    let delta = Delta::whole(compiler.ruleset());
    let start = Instant::now();
    filter.apply(delta).await?;
    push(runs, LOAD, shape, start.elapsed());

    for change in 0..CHANGES {
        let number = args.pods + (change * 997 + round) % (args.endpoints - args.pods);
        let changed = slice::endpoint(number, change * 31 % apps, 0)?;
        let start = Instant::now();
        let delta =
            compiler.change_endpoints(vec![EndpointChange::Put(slice::id(number), changed)]);
        filter.apply(delta).await?;
        push(runs, ENDPOINT, shape, start.elapsed());
    }
    for change in 0..CHANGES / 5 {
        let name = format!("namespace/policy-{change}");
        let policy = policies.policies.get_mut(name.as_str()).context("no such policy")?;
        let rules = Arc::make_mut(policy).ingress.as_mut().context("it has no rules")?;
        rules.rotate_left(1);
        rules.truncate(rules.len() - 1);
        let situation = slice::situation(policies.clone(), args.pods);
        let start = Instant::now();
        let delta = compiler.set_situation(situation);
        let compiled = start.elapsed();
        filter.apply(delta).await?;
        push(runs, POLICY, shape, start.elapsed());
        push(runs, POLICY_COMPILE, shape, compiled);
    }
    Ok(())
}

const COMPILE: &str = "compile everything";
const LOAD: &str = "everything into the kernel";
const ENDPOINT: &str = "one endpoint's change, compiled and in the kernel";
const POLICY: &str = "one policy's change, compiled and in the kernel";
const POLICY_COMPILE: &str = "of that, compiled";

/// Adds what was measured to the report, with its goals.
pub(crate) fn tell(runs: &Runs, report: &mut Report) {
    for shape in slice::SHAPES {
        let goals = [
            (COMPILE, 2000.0),
            (LOAD, 2000.0),
            (ENDPOINT, 5.0),
            (POLICY, 100.0),
            (POLICY_COMPILE, 100.0),
        ];
        for (name, goal) in goals {
            report.limit(runs, &what(name, shape), "ms", Better::Lower, "ours", goal);
        }
    }
}
