//! A portal makes the string with which a cluster joins, and asks for new keys.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_rpc::hub::v1alpha1::join_token_service_client::JoinTokenServiceClient;
use slicewire_rpc::hub::v1alpha1::live_service_client::LiveServiceClient;
use slicewire_rpc::hub::v1alpha1::slice_service_client::SliceServiceClient;
use slicewire_tests::member::secret_of;
use slicewire_tests::portal::{Portal, with_token};
use slicewire_tests::world::{PROJECT_NS, World};
use tokio::time::timeout;
use tonic::{Code, Request, Status};

use super::{everything, slices_alone};

const NAME: &str = "portal-made";
/// Nodes bring changed Secrets into pods within two minutes.
const RENEWED: Duration = Duration::from_secs(300);

/// A cluster joins with a string of the API's, which nobody gets without the right to it, and which is
/// kept nowhere.
pub(crate) fn joining(world: &mut World) -> Result<String> {
    let portal = world.portal()?;
    let outcome = (|| {
        let token = world.caller("inviting", false, &everything())?;
        let tokens_alone = json!([{"apiGroups": ["slicewire.dev"], "resources": ["jointokens"],
            "verbs": ["create", "get"]}]);
        let stranger = world.caller("secretless", false, &tokens_alone)?;
        let path = "jsonpath={.clusters[0].cluster.server}";
        let server = world.k("hub", &format!("config view --minify -o {path}"))?.trim().to_owned();
        let string = string(world, &portal, &token, &stranger, &server)?;
        let secret = secret_of(&string);
        ensure!(secret.split('.').count() == 3, "no secret in the string");
        world.join("east", &string, &["--cluster", "east"])?;
        for what in ["jointokens", "secrets", "configmaps", "events", "joinrequests"] {
            ensure!(
                !world.k("hub", &format!("get {what} -A -o yaml"))?.contains(&secret),
                "{what}"
            );
        }
        let logs = world.k("hub", "-n slicewire-system logs deployment/slicewire-hub --tail=-1")?;
        ensure!(!logs.contains(&secret), "the hub's log holds the secret");
        Ok("east has joined once more with a portal's string, which is kept nowhere".to_owned())
    })();
    let _ = world.k("hub", &format!("-n {PROJECT_NS} delete jointoken {NAME} --ignore-not-found"));
    world.remove_portal();
    outcome
}

fn wish(server: &str) -> rpc::CreateJoinTokenRequest {
    let metadata =
        rpc::Metadata { project: "demo".into(), name: NAME.into(), ..Default::default() };
    let spec = rpc::JoinTokenSpec { clusters: Some("east".into()), ..Default::default() };
    rpc::CreateJoinTokenRequest {
        join_token: Some(rpc::JoinToken {
            metadata: Some(metadata),
            spec: Some(spec),
            status: None,
        }),
        want_join_string: true,
        server: server.to_owned(),
        request_id: "wish-1".into(),
        ..Default::default()
    }
}

fn string(
    world: &World,
    portal: &Portal,
    token: &str,
    stranger: &str,
    server: &str,
) -> Result<String> {
    portal.runtime.block_on(async {
        let mut tokens = JoinTokenServiceClient::new(portal.connect().await?);
        let mut create = async |request: Request<rpc::CreateJoinTokenRequest>| {
            tokens.create_join_token(request).await.map(tonic::Response::into_inner)
        };
        refused(create(with_token(stranger, wish(server))).await, Code::PermissionDenied)?;
        for bad in ["", "http://hub.example", "hub"] {
            let status = create(with_token(token, wish(bad))).await;
            let status = refused(status, Code::InvalidArgument)?;
            ensure!(status.message().contains("server"), "{bad}: {status:?}");
        }
        let dry = rpc::CreateJoinTokenRequest { validate_only: true, ..wish(server) };
        ensure!(create(with_token(token, dry)).await?.join_string.is_empty(), "made for nothing");
        let there = world.k("hub", &format!("-n {PROJECT_NS} get jointoken {NAME}"));
        ensure!(there.is_err(), "a token was made by who was refused");
        let made = create(with_token(token, wish(server))).await?;
        let again = create(with_token(token, wish(server))).await?;
        let uid = |made: &rpc::CreateJoinTokenResponse| -> Option<String> {
            Some(made.join_token.as_ref()?.metadata.as_ref()?.uid.clone())
        };
        ensure!(uid(&made).is_some() && uid(&made) == uid(&again), "{made:?}, then {again:?}");
        ensure!(again.join_string.starts_with("slicewire1."), "no string: {again:?}");
        // Who does not ask for it gets none.
        let plain = rpc::CreateJoinTokenRequest { want_join_string: false, ..wish("") };
        ensure!(create(with_token(token, plain)).await?.join_string.is_empty(), "nobody asked");
        Ok(again.join_string)
    })
}

fn refused<T>(outcome: Result<T, Status>, code: Code) -> Result<Status> {
    match outcome {
        Ok(_) => bail!("was not refused; {code:?} was expected"),
        Err(status) if status.code() == code => Ok(status),
        Err(status) => bail!("{code:?} was expected: {status:?}"),
    }
}

/// New keys are asked for as an update of the slice, and every tunnel tells when it has them.
pub(crate) fn rotation(world: &mut World) -> Result<String> {
    let portal = world.portal()?;
    let outcome = (|| {
        let token = world.caller("renewing", true, &everything())?;
        let reader = world.caller("reading", false, &slices_alone())?;
        let generation = portal.runtime.block_on(rotated(&portal, &token, &reader))?;
        Ok(format!("every tunnel sends by keys of generation {generation}, with a pre-shared key"))
    })();
    world.remove_portal();
    outcome
}

async fn rotated(portal: &Portal, token: &str, reader: &str) -> Result<u64> {
    let channel = portal.connect().await?;
    let mut live = LiveServiceClient::new(channel.clone());
    let mut slices = SliceServiceClient::new(channel);
    let ask = |id: &str, validate_only| rpc::RotateKeysRequest {
        project: "demo".into(),
        name: "blue".into(),
        validate_only,
        request_id: id.to_owned(),
    };
    let watch = rpc::WatchTopologyRequest {
        project: "demo".into(),
        slice: "blue".into(),
        ..Default::default()
    };
    let mut told = live.watch_topology(with_token(token, watch)).await?.into_inner();
    let first = told.message().await?.and_then(|t| t.topology).context("no topology")?;
    let before = first.tunnels.iter().filter_map(|t| t.key_generation).max().context("no keys")?;
    let denied = slices.rotate_keys(with_token(reader, ask("", false))).await;
    refused(denied, Code::PermissionDenied)?;
    let bad = slices.rotate_keys(with_token(token, ask("not fit", false))).await;
    refused(bad, Code::InvalidArgument)?;
    slices.rotate_keys(with_token(token, ask("", true))).await?;
    let asked = slices.rotate_keys(with_token(token, ask("portal-1", false))).await?.into_inner();
    ensure!(asked.request == "portal-1", "{asked:?}");
    let wait = async {
        while let Some(message) = told.message().await? {
            let Some(topology) = message.topology else { continue };
            let new = |t: &rpc::LiveTunnel| {
                t.key_generation > Some(before) && t.preshared_key == Some(true) && t.up
            };
            if topology.tunnels.len() == 2 && topology.tunnels.iter().all(new) {
                return Ok(topology.tunnels[0].key_generation.unwrap_or_default());
            }
        }
        bail!("the watch ended")
    };
    timeout(RENEWED, wait).await.context("no tunnel tells of new keys")?
}
