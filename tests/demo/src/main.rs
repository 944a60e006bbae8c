//! A slice across two real clusters on this machine, shown to a person step by step.
//!
//! `demo up` builds what is missing, brings up three clusters, installs Slicewire and shows what a
//! slice does; it leaves the clusters running. `demo down` removes everything.

mod capture;
mod ceiling;
mod clusters;
mod pods;
mod policy;
mod service;
mod show;
mod story;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use slicewire_testbed::{Progress, Testbed};

use crate::show::{Show, print};

/// The testbed's name, apart from the one that tests use.
const TESTBED: &str = "demo";

/// A slice across two real clusters on this machine, step by step.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show it; the clusters are left running.
    Up,
    /// Remove everything.
    Down,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().action {
        Action::Up => up(),
        Action::Down => Testbed::down(TESTBED, &Progress::new()).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print(&format!("demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn up() -> Result<bool> {
    let mut show = Show::new();
    // A step that failed is told when it fails, and once more in the summary.
    if let Ok(demo) = clusters::prepare(&mut show)
        && story::tell(&demo, &mut show).is_err()
    {
        clusters::diagnose(&demo);
    }
    let worked = show.summary();
    print(if worked { NEXT } else { FAILED });
    Ok(worked)
}

const NEXT: &str = "
The clusters are left running. Try:
  export HUB=target/testbed/demo/hub.kubeconfig EAST=target/testbed/demo/east.kubeconfig
  target/release/slicectl status --kubeconfig $HUB
  kubectl --kubeconfig $HUB get projects,clusters,sliceconfigs -A
  kubectl --kubeconfig $EAST get slices,slicegateways,slicenodes -A
  kubectl --kubeconfig $EAST exec -n shop deploy/client -- ip addr show slice0
  # What runs, from the API for portals (docs/api.md):
  kubectl --kubeconfig $HUB -n slicewire-system get secret slicewire-hub-webhook -o jsonpath='{.data.ca\\.crt}' | base64 -d >ca.crt
  kubectl --kubeconfig $HUB -n slicewire-system port-forward service/slicewire-hub 9443 &
  grpcurl -cacert ca.crt -authority slicewire-hub.slicewire-system.svc \\
    -H \"authorization: Bearer $(kubectl --kubeconfig $HUB -n slicewire-system create token slicewire-hub)\" \\
    -d '{\"project\": \"demo\", \"slice\": \"blue\"}' localhost:9443 slicewire.hub.v1alpha1.LiveService/GetTopology
  kubectl --kubeconfig $EAST exec -n shop deploy/client -- curl -s http://server.shop.svc.clusterset.local/
  kubectl --kubeconfig $EAST label namespace shop slicewire.dev/slice-   # detaches the running pods
  make demo-down                                                          # removes everything
";

const FAILED: &str = "
Not all of it worked. The clusters are left running to look at:
  target/release/slicectl status --kubeconfig target/testbed/demo/hub.kubeconfig
  kubectl --kubeconfig target/testbed/demo/east.kubeconfig get pods -A
  make demo-down
";
