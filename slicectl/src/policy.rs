//! `slicectl policy`: which policies a slice has and what they came to, and what a change of them
//! would open and close.

mod candidate;
mod diff;
mod known;
mod list;
mod pods;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use slicewire_core::name::ClusterName;

use crate::cluster::HubArguments;
use crate::progress;
use known::Known;

/// What to do with policies.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show slices' policies in the order they are asked, and what they have decided about in each
    /// cluster. Exit status 2: not all of them are carried out as they are written.
    List(List),
    /// Show which pairs of pods a change would open or close, without making it. Exit status 0: none,
    /// 1: some, 2: it cannot be said, or would be refused.
    Diff(Diff),
}

/// What to list.
#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    hub: HubArguments,
    /// Only this project.
    #[arg(long)]
    project: Option<String>,
    /// Only this slice.
    #[arg(long)]
    slice: Option<String>,
}

/// What to compare.
#[derive(Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    hub: HubArguments,
    /// SlicePolicies and SliceConfigs as they would be applied, YAML or JSON; `-` is standard input.
    /// The hub is asked whether it would take them; nothing is stored.
    #[arg(long, short, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// A SlicePolicy that would be deleted, as `<project>/<name>`.
    #[arg(long, value_name = "PROJECT/NAME")]
    delete: Vec<String>,
    /// Take what is known of a cluster's pods, and its own NetworkPolicies, from the cluster itself.
    /// The hub is told no more of pods than policies select on already.
    #[arg(long, value_name = "NAME=KUBECONFIG", value_parser = worker)]
    cluster: Vec<(ClusterName, PathBuf)>,
    /// Most pairs that are listed for each slice.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

fn worker(text: &str) -> Result<(ClusterName, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("is not NAME=KUBECONFIG")?;
    let name = ClusterName::parse(name).map_err(|_| format!("{name} is no cluster's name"))?;
    Ok((name, PathBuf::from(path)))
}

/// Does it.
///
/// # Errors
/// The hub cannot be read. A comparison tells its errors itself: its exit status 1 means something.
pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(arguments) => {
            let hub = arguments.hub.connect().await?;
            let mut known = Known::read(&hub.client).await?;
            known.retain(arguments.project.as_deref(), arguments.slice.as_deref());
            let (text, carried_out) = list::render(&known.slices);
            io::stdout().write_all(text.as_bytes())?;
            Ok(if carried_out { ExitCode::SUCCESS } else { ExitCode::from(2) })
        }
        Command::Diff(arguments) => match compare(arguments).await {
            Ok((text, same)) => {
                io::stdout().write_all(text.as_bytes())?;
                Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Err(error) => {
                progress::line(&format!("error: {error:#}"));
                Ok(ExitCode::from(2))
            }
        },
    }
}

async fn compare(arguments: Diff) -> Result<(String, bool)> {
    let change = candidate::Change::read(&arguments.filename, &arguments.delete)?;
    let hub = arguments.hub.connect().await?;
    let change = change.admitted(&hub.client).await?;
    let before = Known::read(&hub.client).await?;
    let after = change.made(&before)?;
    let mut compared = diff::changed(&before, &after);
    for (name, kubeconfig) in &arguments.cluster {
        let worker = crate::cluster::connect(Some(kubeconfig), None)
            .await
            .with_context(|| format!("cluster {name} cannot be reached"))?;
        for one in compared.iter_mut().filter(|one| one.has(name)) {
            one.ask(name, &worker.client).await?;
        }
    }
    diff::render(&compared, arguments.limit)
}
