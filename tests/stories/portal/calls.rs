//! What a portal does all day: make, read, change, remove; and what it is told when it errs.

use anyhow::{Context, Result, bail, ensure};
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_rpc::hub::v1alpha1::live_service_client::LiveServiceClient;
use slicewire_rpc::hub::v1alpha1::slice_service_client::SliceServiceClient;
use slicewire_tests::portal::{Portal, with_token};
use slicewire_tests::world::World;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{everything, slices_alone};

type Slices = SliceServiceClient<Channel>;

pub(crate) fn calls(world: &mut World) -> Result<String> {
    let portal = world.portal()?;
    let outcome = (|| {
        let token = world.caller("calls", true, &everything())?;
        let other = world.caller("other", true, &everything())?;
        let stranger = world.caller("stranger", false, &slices_alone())?;
        portal.runtime.block_on(async {
            let channel = portal.connect().await?;
            let mut slices = SliceServiceClient::new(channel.clone());
            life(&mut slices, &token).await.context("life")?;
            faults(&mut slices, &token).await.context("faults")?;
            pages(&mut slices, &token).await.context("pages")?;
            let seen = live(channel, &token, &stranger).await.context("live")?;
            strangers(&portal).await.context("strangers")?;
            let limited = limits(&mut slices, &token, &other).await.context("limits")?;
            anyhow::Ok(format!(
                "{seen}; of 400 calls at once {limited} were told to wait, no other person's"
            ))
        })
    })();
    let _ = world.k("hub", "-n slicewire-demo delete sliceconfig green --ignore-not-found");
    world.remove_portal();
    outcome
}

fn green(prefixes: &[&str]) -> rpc::Slice {
    let text = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let cluster = |name: &str| rpc::SliceCluster { name: name.to_owned() };
    rpc::Slice {
        metadata: Some(rpc::Metadata {
            project: "demo".into(),
            name: "green".into(),
            labels: [("team".to_owned(), "a".to_owned())].into(),
            ..Default::default()
        }),
        spec: Some(rpc::SliceSpec {
            prefixes: text(prefixes),
            clusters: vec![cluster("east"), cluster("west")],
            ..Default::default()
        }),
        status: None,
    }
}

fn update(slice: rpc::Slice, paths: &[&str]) -> rpc::UpdateSliceRequest {
    let paths = paths.iter().map(|p| (*p).to_owned()).collect();
    let update_mask = Some(prost_types::FieldMask { paths });
    rpc::UpdateSliceRequest { slice: Some(slice), update_mask, validate_only: false }
}

fn refused<T>(outcome: Result<tonic::Response<T>, Status>, code: Code) -> Result<Status> {
    match outcome {
        Ok(_) => bail!("was not refused; {code:?} was expected"),
        Err(status) if status.code() == code => Ok(status),
        Err(status) => bail!("{code:?} was expected: {status:?}"),
    }
}

async fn life(slices: &mut Slices, token: &str) -> Result<()> {
    let get = || rpc::GetSliceRequest { project: "demo".into(), name: "green".into() };
    let create = |validate_only, id: &str, slice| rpc::CreateSliceRequest {
        slice: Some(slice),
        validate_only,
        request_id: id.to_owned(),
    };
    let slice = || green(&["10.88.0.0/16"]);
    slices.create_slice(with_token(token, create(true, "", slice()))).await?;
    refused(slices.get_slice(with_token(token, get())).await, Code::NotFound)?;
    let make = create(false, "wish-1", slice());
    let made = slices.create_slice(with_token(token, make.clone())).await?.into_inner();
    let made = made.slice.and_then(|s| s.metadata).context("no slice")?;
    let again = slices.create_slice(with_token(token, make)).await?.into_inner();
    let again = again.slice.and_then(|s| s.metadata).context("no slice")?;
    ensure!(made.uid == again.uid && !made.uid.is_empty(), "{made:?} is not {again:?}");
    for other in [create(false, "wish-2", slice()), create(false, "", slice())] {
        refused(slices.create_slice(with_token(token, other)).await, Code::AlreadyExists)?;
    }
    let otherwise = create(false, "wish-1", green(&["10.89.0.0/16"]));
    refused(slices.create_slice(with_token(token, otherwise)).await, Code::AlreadyExists)?;

    // What was written is read at once.
    let now = slices.get_slice(with_token(token, get())).await?.into_inner().slice;
    let mut now = now.context("no slice")?;
    // Only what the mask names is written, whatever else the object says.
    let mut change = green(&[]);
    change.spec.get_or_insert_default().mtu = Some(1400);
    let change = update(change, &["spec.mtu", "metadata.labels.team"]);
    let changed = slices.update_slice(with_token(token, change)).await?.into_inner().slice;
    let spec = changed.and_then(|s| s.spec).context("no spec")?;
    ensure!(spec.mtu == Some(1400) && spec.prefixes == ["10.88.0.0/16"], "{spec:?}");
    // The version is not the newest any more: the write in between is not lost.
    now.spec.get_or_insert_default().mtu = Some(1300);
    let stale = update(now, &["spec.mtu"]);
    refused(slices.update_slice(with_token(token, stale)).await, Code::Aborted)?;
    let now = slices.get_slice(with_token(token, get())).await?.into_inner().slice;
    ensure!(
        now.and_then(|s| s.spec).and_then(|s| s.mtu) == Some(1400),
        "the stale write was taken"
    );

    let delete = |version: &str, validate_only| rpc::DeleteSliceRequest {
        project: "demo".into(),
        name: "green".into(),
        resource_version: version.to_owned(),
        validate_only,
    };
    refused(slices.delete_slice(with_token(token, delete("1", false))).await, Code::Aborted)?;
    slices.delete_slice(with_token(token, delete("", true))).await?;
    slices.get_slice(with_token(token, get())).await?;
    slices.delete_slice(with_token(token, delete("", false))).await?;
    Ok(())
}

async fn faults(slices: &mut Slices, token: &str) -> Result<()> {
    let fields = |status: &Status| -> Vec<String> {
        let details = status.get_error_details();
        let all = details.bad_request().map(|b| b.field_violations.clone()).unwrap_or_default();
        all.into_iter().map(|f| f.field).collect()
    };
    // What this side sees: everything in one answer.
    let mut slice = green(&[]);
    slice.metadata = Some(rpc::Metadata { name: "A/b".into(), ..Default::default() });
    let request = rpc::CreateSliceRequest {
        slice: Some(slice),
        validate_only: false,
        request_id: "not fit".into(),
    };
    let status =
        refused(slices.create_slice(with_token(token, request)).await, Code::InvalidArgument)?;
    let found = fields(&status);
    for field in ["slice.metadata.name", "slice.metadata.project", "request_id"] {
        ensure!(found.iter().any(|f| f == field), "{field} is missing: {found:?}");
    }
    ensure!(status.get_error_details().request_info().is_some(), "no request id: {status:?}");
    // What the hub's admission sees.
    let mut slice = green(&["10.1.0.0/32"]);
    slice.spec.get_or_insert_default().clusters = vec![
        rpc::SliceCluster { name: "north".into() },
        rpc::SliceCluster { name: "south".into() },
    ];
    let request = rpc::CreateSliceRequest { slice: Some(slice), ..Default::default() };
    let status =
        refused(slices.create_slice(with_token(token, request)).await, Code::InvalidArgument)?;
    let found = fields(&status);
    ensure!(found.len() >= 3, "not every fault has its field: {status:?}");
    // What the API server sees.
    let mut slice = green(&["10.1.0.0/16", "10.1.2.0/24"]);
    slice.spec.get_or_insert_default().mtu = Some(9);
    let request = rpc::CreateSliceRequest { slice: Some(slice), ..Default::default() };
    let status =
        refused(slices.create_slice(with_token(token, request)).await, Code::InvalidArgument)?;
    ensure!(fields(&status).len() >= 2, "{status:?}");
    Ok(())
}

async fn pages(slices: &mut Slices, token: &str) -> Result<()> {
    let ask = |size, page: &str, filter: &str| {
        let (project, page_token, filter) = ("demo".to_owned(), page.to_owned(), filter.to_owned());
        with_token(token, rpc::ListSlicesRequest { project, page_size: size, page_token, filter })
    };
    let all = slices.list_slices(ask(0, "", "")).await?.into_inner();
    let names = |slices: &[rpc::Slice]| -> Vec<String> {
        slices.iter().filter_map(|s| Some(s.metadata.as_ref()?.name.clone())).collect()
    };
    let (mut found, mut page) = (Vec::new(), String::new());
    loop {
        let one = slices.list_slices(ask(1, &page, "")).await?.into_inner();
        found.extend(names(&one.slices));
        if one.next_page_token.is_empty() {
            break;
        }
        page = one.next_page_token;
    }
    ensure!(found == names(&all.slices), "{found:?} in pages, {:?} in one", names(&all.slices));
    let filter = r#"spec.clusters.name = east AND status.conditions.type = "Ready""#;
    let some = slices.list_slices(ask(0, "", filter)).await?.into_inner();
    ensure!(names(&some.slices).contains(&"blue".to_owned()), "{:?}", names(&some.slices));
    let none = slices.list_slices(ask(0, "", "metadata.name = nothing")).await?.into_inner();
    ensure!(none.slices.is_empty(), "{none:?}");
    for bad in
        [ask(0, "p1.x", ""), ask(501, "", ""), ask(0, "", "spec.nonsense = 1"), ask(0, "", "a =")]
    {
        refused(slices.list_slices(bad).await, Code::InvalidArgument)?;
    }
    Ok(())
}

async fn live(channel: Channel, token: &str, stranger: &str) -> Result<String> {
    let mut live = LiveServiceClient::new(channel);
    let ask = || rpc::GetTopologyRequest { project: "demo".into(), slice: "blue".into() };
    let told = live.get_topology(with_token(token, ask())).await?.into_inner();
    let topology = told.topology.context("no topology")?;
    ensure!(topology.clusters.len() == 2 && topology.tunnels.len() == 2, "{topology:?}");
    let up = topology.tunnels.iter().filter(|t| t.up && t.last_handshake.is_some()).count();
    ensure!(up == 2, "not every tunnel is up: {topology:?}");
    ensure!(topology.clusters.iter().all(|c| c.gateways.iter().any(|g| g.ready)), "{topology:?}");
    ensure!(topology.withheld_clusters.is_empty(), "{topology:?}");
    let rtt = topology.tunnels[0].rtt_micros.context("no round-trip time")?;
    // Who may read the slice, and nothing in its clusters' namespaces.
    let told = live.get_topology(with_token(stranger, ask())).await?.into_inner();
    let topology = told.topology.context("no topology")?;
    ensure!(topology.withheld_clusters == ["east", "west"], "{topology:?}");
    ensure!(topology.tunnels.is_empty(), "{topology:?}");
    let ask = || rpc::ListEventsRequest { project: "demo".into(), ..Default::default() };
    let events = live.list_events(with_token(token, ask())).await?.into_inner().events;
    ensure!(events.iter().any(|e| !e.reason.is_empty() && e.time.is_some()), "{events:?}");
    refused(live.list_events(with_token(stranger, ask())).await, Code::PermissionDenied)?;
    Ok(format!("2 tunnels up with {rtt} µs, {} events", events.len()))
}

/// Who has no token, or a made-up one.
async fn strangers(portal: &Portal) -> Result<()> {
    let mut slices = SliceServiceClient::new(portal.connect().await?);
    let ask = rpc::ListSlicesRequest::default;
    refused(slices.list_slices(ask()).await, Code::Unauthenticated)?;
    refused(slices.list_slices(with_token("made-up", ask())).await, Code::Unauthenticated)?;
    Ok(())
}

/// A flood of one person's calls; how many were told to wait.
async fn limits(slices: &mut Slices, token: &str, other: &str) -> Result<usize> {
    let ask = |token: &str| {
        let request = rpc::GetSliceRequest { project: "demo".into(), name: "blue".into() };
        (slices.clone(), with_token(token, request))
    };
    let one = |(mut slices, request): (Slices, _)| async move { slices.get_slice(request).await };
    let flood = futures::future::join_all((0..400).map(|_| one(ask(token))));
    let calm = futures::future::join_all((0..20).map(|_| one(ask(other))));
    let (flood, calm) = tokio::join!(flood, calm);
    let refused: Vec<Status> = flood.into_iter().filter_map(Result::err).collect();
    ensure!(!refused.is_empty(), "nobody was told to wait");
    for status in &refused {
        ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
        let details = status.get_error_details();
        let retry = details.retry_info().and_then(|r| r.retry_delay);
        ensure!(retry.is_some_and(|d| !d.is_zero()), "no time to wait for: {status:?}");
    }
    ensure!(calm.iter().all(Result::is_ok), "another person was held up: {calm:?}");
    Ok(refused.len())
}
