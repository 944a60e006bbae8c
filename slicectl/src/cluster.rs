//! Reaching a cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use slicewire_ticket::pem;

/// A cluster that can be talked to.
pub(crate) struct Cluster {
    /// The client.
    pub(crate) client: Client,
    /// Its address, as the kubeconfig has it.
    pub(crate) server: String,
    /// The authorities of its certificate, PEM; `None` where the machine's own are used.
    pub(crate) authorities: Option<String>,
    /// The context's name, for messages.
    pub(crate) context: String,
}

/// Which cluster a command is about.
#[derive(Args)]
pub(crate) struct ClusterArguments {
    /// Kubeconfig of the cluster; as kubectl when left out.
    #[arg(long)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig; its current one when left out.
    #[arg(long)]
    pub(crate) context: Option<String>,
}

impl ClusterArguments {
    /// Connects.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub(crate) async fn connect(&self) -> Result<Cluster> {
        connect(self.kubeconfig.as_deref(), self.context.as_deref()).await
    }
}

/// How the hub is reached.
#[derive(Args)]
pub(crate) struct HubArguments {
    /// Kubeconfig of the hub; as kubectl when left out.
    #[arg(long, visible_alias = "hub-kubeconfig")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the hub in its kubeconfig.
    #[arg(long, visible_alias = "hub-context")]
    pub(crate) context: Option<String>,
}

impl HubArguments {
    /// Connects.
    ///
    /// # Errors
    /// The hub does not answer.
    pub(crate) async fn connect(&self) -> Result<Cluster> {
        connect(self.kubeconfig.as_deref(), self.context.as_deref())
            .await
            .context("the hub cannot be reached")
    }
}

/// Connects by kubeconfig; without one by `$KUBECONFIG` or `~/.kube/config`, as kubectl does.
///
/// # Errors
/// The file or the context is not there, or the cluster does not answer.
pub(crate) async fn connect(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Cluster> {
    let (file, named) = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            (file, path.display().to_string())
        }
        None => {
            let file =
                Kubeconfig::read().context("no kubeconfig: say --kubeconfig, or set KUBECONFIG")?;
            (file, "the default kubeconfig".to_owned())
        }
    };
    let name = context.map(str::to_owned).or_else(|| file.current_context.clone());
    let options =
        KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let mut config = Config::from_custom_kubeconfig(file, &options).await.with_context(|| {
        format!("{named} has no usable context {:?}", name.clone().unwrap_or_default())
    })?;
    config.connect_timeout = Some(Duration::from_secs(5));
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let authorities = match (&config.root_cert, &config.root_cert_file) {
        (Some(ders), _) => Some(ders.iter().map(|der| pem(der)).collect()),
        (None, Some(path)) => Some(read(path)?),
        (None, None) => None,
    };
    let client = Client::try_from(config).context("cannot use this kubeconfig")?;
    client.apiserver_version().await.with_context(|| {
        format!(
            "{server} ({named}) does not answer; see that it is up and the credentials are valid"
        )
    })?;
    Ok(Cluster { client, server, authorities, context: name.unwrap_or(named) })
}

fn read(path: &PathBuf) -> Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the cluster's authority {}", path.display()))
}
