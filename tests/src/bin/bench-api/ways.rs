//! Three ways to the same objects, all as the same user.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use kube::Client;
use serde_json::Value;
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_rpc::hub::v1alpha1::slice_service_client::SliceServiceClient;
use slicewire_testbed::Testbed;
use slicewire_tests::portal::with_token;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tonic::transport::Channel;

use crate::hub::Hub;
use crate::load::{self, Callers, slice};

/// The project whose slices are read, and in which others are made.
const PROJECT: &str = "b0";
const RAW: &str = "/apis/slicewire.dev/v1alpha1/namespaces/slicewire-b0/sliceconfigs";
/// Of all projects: as many objects as one page holds.
const RAW_LIST: &str = "/apis/slicewire.dev/v1alpha1/sliceconfigs?limit=500";
/// What a list of that many has at least, in bytes.
const LIST_LEAST: usize = 250_000;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Get,
    List,
    Create,
}

impl Deed {
    pub(crate) const ALL: [Self; 3] = [Self::Get, Self::List, Self::Create];

    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Get => "get a slice",
            Self::List => "list 500 slices",
            Self::Create => "create a slice",
        }
    }
}

/// Who is asked, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The hub's API, over one connection.
    Ours,
    /// The API server, over connections that are kept; answers are not even read as JSON.
    Kept,
    /// A process for each call.
    Kubectl,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Ours, Self::Kept, Self::Kubectl];

    pub(crate) fn who(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Kept => "API server, connection kept",
            Self::Kubectl => "kubectl --raw",
        }
    }
}

/// The three ways.
pub(crate) struct Ways {
    testbed: Testbed,
    ours: Channel,
    token: String,
    kept: Client,
    kubeconfig: PathBuf,
}

impl Ways {
    /// The first caller's.
    pub(crate) async fn new(testbed: &Testbed, hub: &Hub, callers: &Callers) -> Result<Self> {
        Ok(Self {
            testbed: testbed.clone(),
            ours: hub.portal.connect().await?,
            token: callers.tokens.first().context("no callers")?.clone(),
            kept: load::client(&callers.kubeconfig).await?,
            kubeconfig: callers.kubeconfig.clone(),
        })
    }

    /// One call: for the slice `name`, of a list for all.
    pub(crate) async fn call(&self, way: Way, deed: Deed, name: &str) -> Result<()> {
        let asked = match way {
            Way::Ours => ask(&self.ours, &self.token, deed, name).await,
            Way::Kept => self.raw(deed, name).await,
            Way::Kubectl => self.kubectl(deed, name).await,
        };
        asked.with_context(|| format!("{}: {} {name}", way.who(), deed.what()))
    }

    async fn raw(&self, deed: Deed, name: &str) -> Result<()> {
        let request = match deed {
            Deed::Get => hyper::Request::get(format!("{RAW}/{name}")).body(Vec::new())?,
            Deed::List => hyper::Request::get(RAW_LIST).body(Vec::new())?,
            Deed::Create => hyper::Request::post(RAW)
                .header("content-type", "application/json")
                .body(fresh(name).to_string().into_bytes())?,
        };
        complete(deed, self.kept.request_text(request).await?.len())
    }

    async fn kubectl(&self, deed: Deed, name: &str) -> Result<()> {
        let mut command = Command::from(self.testbed.kubectl_command("hub"));
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        match deed {
            Deed::Get => command.args(["get", "--raw", &format!("{RAW}/{name}")]),
            Deed::List => command.args(["get", "--raw", RAW_LIST]),
            Deed::Create => command.args(["create", "--raw", RAW, "-f", "-"]),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        if let (Some(mut stdin), Deed::Create) = (child.stdin.take(), deed) {
            stdin.write_all(fresh(name).to_string().as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        complete(deed, output.stdout.len())
    }
}

/// Whether an answer of the API server can be all that was asked for.
fn complete(deed: Deed, bytes: usize) -> Result<()> {
    let least = if deed == Deed::List { LIST_LEAST } else { 300 };
    ensure!(bytes >= least, "the answer has {bytes} bytes only");
    Ok(())
}

/// One call of the hub's API.
pub(crate) async fn ask(channel: &Channel, token: &str, deed: Deed, name: &str) -> Result<()> {
    let mut client = SliceServiceClient::new(channel.clone());
    match deed {
        Deed::Get => {
            let request = rpc::GetSliceRequest { project: PROJECT.into(), name: name.into() };
            client.get_slice(with_token(token, request)).await?;
        }
        Deed::Create => {
            let request =
                rpc::CreateSliceRequest { slice: Some(message(name)), ..Default::default() };
            client.create_slice(with_token(token, request)).await?;
        }
        Deed::List => {
            let request = rpc::ListSlicesRequest { page_size: 500, ..Default::default() };
            let page = client.list_slices(with_token(token, request)).await?.into_inner();
            ensure!(page.slices.len() == 500, "{} slices on the page", page.slices.len());
        }
    }
    Ok(())
}

/// A slice of one cluster, so that it is not the plan that is measured.
fn fresh(name: &str) -> Value {
    slice(name, &["c0".to_owned()])
}

/// The same as a message.
fn message(name: &str) -> rpc::Slice {
    let metadata =
        rpc::Metadata { project: PROJECT.into(), name: name.into(), ..Default::default() };
    let namespace = rpc::NamespaceRule { names: vec!["shop".into()], ..Default::default() };
    let spec = rpc::SliceSpec {
        prefixes: vec!["10.77.0.0/16".into()],
        clusters: vec![rpc::SliceCluster { name: "c0".into() }],
        namespaces: vec![namespace],
        ..Default::default()
    };
    rpc::Slice { metadata: Some(metadata), spec: Some(spec), status: None }
}
