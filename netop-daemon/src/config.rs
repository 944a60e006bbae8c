//! What the daemon is told when it starts.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Plugs the pods of this node into their slices.
#[derive(Parser, Debug)]
#[command(version, about)]
pub(crate) struct Cli {
    /// What to do; `run` when left out.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Options of `run`.
    #[command(flatten)]
    pub(crate) options: Options,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Keep this node's slices as the API server says.
    Run,
    /// Remove every router, NIC and file of ours from this node, then end. Needs no API server.
    Cleanup {
        /// When done, report ready and wait for SIGTERM instead of ending.
        #[arg(long)]
        stay: bool,
    },
}

/// Where things are on this node.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// This node's name.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub(crate) node: String,
    /// This node's addresses, that other nodes send the slices' packets to; first choice first.
    #[arg(long, env = "NODE_IPS", value_delimiter = ',')]
    pub(crate) node_ips: Vec<IpAddr>,
    /// The container runtime's CRI socket.
    #[arg(long, env = "CRI_SOCKET", default_value = "/run/containerd/containerd.sock")]
    pub(crate) cri_socket: PathBuf,
    /// The container runtime's NRI socket; empty: new pods are found through CRI.
    #[arg(long, env = "NRI_SOCKET", default_value = "/var/run/nri/nri.sock")]
    pub(crate) nri_socket: String,
    /// Where the state that outlives the process, but not the node, is kept.
    #[arg(long, env = "STATE_DIR", default_value = "/run/slicewire")]
    pub(crate) state_dir: PathBuf,
    /// Where health and metrics are served.
    #[arg(long, env = "ADMIN_ADDRESS", default_value = "[::]:9580")]
    pub(crate) admin: SocketAddr,
    /// Where DNS for the slices' services is served: addresses of this node, and not all of them by
    /// `0.0.0.0` or `[::]`, as answers must leave from the address that was asked. None: nowhere.
    #[arg(long, env = "DNS_ADDRESSES", value_delimiter = ',')]
    pub(crate) dns: Vec<SocketAddr>,
    /// The port at which DNS is served on each of the node's addresses, besides; 0: at none.
    #[arg(long, env = "DNS_PORT", default_value = "0")]
    pub(crate) dns_port: u16,
    /// Most DNS questions of one client in a second; the cluster's DNS is one client.
    #[arg(long, env = "DNS_QUESTIONS_PER_CLIENT", default_value = "20000")]
    pub(crate) dns_per_client: NonZeroU32,
}
