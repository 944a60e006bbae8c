//! Watches: over a restart of the hub, and with a reader that does not read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_rpc::hub::v1alpha1::EventType;
use slicewire_rpc::hub::v1alpha1::live_service_client::LiveServiceClient;
use slicewire_rpc::hub::v1alpha1::project_service_client::ProjectServiceClient;
use slicewire_tests::portal::{Portal, with_token};
use slicewire_tests::world::World;
use tokio::time::timeout;
use tonic::Streaming;

use super::{events, everything, slices_alone};

/// Longest wait for a message.
pub(super) const SOON: Duration = Duration::from_secs(20);
/// Changes that a slow reader sleeps through: more than the hub remembers.
const CHANGES: usize = 2000;

pub(crate) fn watch(world: &mut World) -> Result<String> {
    let portal = world.portal()?;
    let outcome = (|| {
        let token = world.caller("watching", true, &everything())?;
        let stranger = world.caller("unwatching", false, &slices_alone())?;
        let happened = events::watched(world, &portal, &token, &stranger).context("Events")?;
        let resumed = resumed(world, &portal, &token).context("resumed")?;
        let again = events::after_restart(world, &portal, &token, happened).context("Events")?;
        let slow = slow(world, &portal, &token).context("slow reader")?;
        topology(world, &portal, &token).context("topology")?;
        Ok(format!("{resumed}, one of Events {again}; {slow}"))
    })();
    events::tidy(world);
    let _ = world.k("hub", "delete project w-kept w-gone w-new w-slow --ignore-not-found");
    world.remove_portal();
    outcome
}

/// A portal's copy of what it watches.
#[derive(Default)]
struct Copy {
    descriptions: BTreeMap<String, String>,
    token: String,
    resets: Vec<String>,
}

impl Copy {
    fn take(&mut self, told: rpc::WatchProjectsResponse) -> Result<EventType> {
        let event = told.r#type();
        let project = told.project.unwrap_or_default();
        let name = project.metadata.unwrap_or_default().name;
        let description = project.spec.unwrap_or_default().description.unwrap_or_default();
        match event {
            EventType::Reset => {
                self.descriptions.clear();
                self.resets.push(told.notice);
            }
            EventType::Existing | EventType::Changed => {
                self.descriptions.insert(name, description);
            }
            EventType::Deleted => {
                self.descriptions.remove(&name).with_context(|| format!("{name} is gone twice"))?;
            }
            EventType::Synced | EventType::Heartbeat => {}
            EventType::Unspecified => bail!("a message says nothing"),
        }
        if !told.resume_token.is_empty() {
            self.token = told.resume_token;
        }
        Ok(event)
    }

    async fn until(
        &mut self,
        stream: &mut Streaming<rpc::WatchProjectsResponse>,
        done: impl Fn(&Self, EventType) -> bool,
    ) -> Result<()> {
        let mut news = Instant::now();
        while news.elapsed() < SOON * 2 {
            let told = timeout(SOON, stream.message()).await.context("nothing was told")??;
            let event = self.take(told.context("the watch ended")?)?;
            if done(self, event) {
                return Ok(());
            }
            if event != EventType::Heartbeat {
                news = Instant::now();
            }
        }
        bail!("waited in vain; what is known: {:?}", self.descriptions)
    }
}

async fn open(
    portal: &Portal,
    token: &str,
    resume: &str,
) -> Result<Streaming<rpc::WatchProjectsResponse>> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let request =
            rpc::WatchProjectsRequest { resume_token: resume.into(), ..Default::default() };
        let opened = async {
            let mut client = ProjectServiceClient::new(portal.connect().await?);
            anyhow::Ok(client.watch_projects(with_token(token, request)).await?.into_inner())
        };
        match opened.await {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn project(world: &World, name: &str, description: &str) -> Result<()> {
    world.apply(
        "hub",
        &format!(
            r#"{{"apiVersion": "slicewire.dev/v1alpha1", "kind": "Project",
            "metadata": {{"name": "{name}"}}, "spec": {{"description": "{description}"}}}}"#
        ),
    )?;
    Ok(())
}

fn resumed(world: &World, portal: &Portal, token: &str) -> Result<String> {
    project(world, "w-kept", "1")?;
    project(world, "w-gone", "1")?;
    let mut copy = Copy::default();
    let run = &portal.runtime;
    let mut stream = run.block_on(open(portal, token, ""))?;
    run.block_on(copy.until(&mut stream, |_, e| e == EventType::Synced))?;
    ensure!(copy.resets == ["Start"], "{:?}", copy.resets);
    // Broken off and taken up again: only what was missed.
    drop(stream);
    project(world, "w-kept", "2")?;
    let mut stream = run.block_on(open(portal, token, &copy.token))?;
    run.block_on(copy.until(&mut stream, |c, _| c.descriptions["w-kept"] == "2"))?;
    ensure!(copy.resets == ["Start"], "began anew without need: {:?}", copy.resets);
    // The hub is restarted while the world goes on.
    world.k("hub", "-n slicewire-system scale deployment slicewire-hub --replicas=0")?;
    world.k("hub", "-n slicewire-system wait pod -l app.kubernetes.io/name=slicewire-hub --for=delete --timeout=60s")?;
    drop(stream);
    project(world, "w-kept", "3")?;
    project(world, "w-new", "1")?;
    // Nobody is there to let it go in order.
    world.k("hub", r#"patch project w-gone --type=merge -p {"metadata":{"finalizers":null}}"#)?;
    world.k("hub", "delete project w-gone")?;
    world.k("hub", "-n slicewire-system scale deployment slicewire-hub --replicas=1")?;
    let begun = Instant::now();
    let mut stream = run.block_on(open(portal, token, &copy.token))?;
    run.block_on(copy.until(&mut stream, |_, e| e == EventType::Synced))?;
    let known = |name: &str| copy.descriptions.get(name).map(String::as_str);
    let told = (known("w-kept"), known("w-new"), known("w-gone"));
    ensure!(told == (Some("3"), Some("1"), None), "{told:?}");
    let how = match copy.resets.len() {
        1 => "with nothing but what was missed",
        _ => "by a new snapshot",
    };
    Ok(format!(
        "a watch goes on over a restart {how}, {:.1} s after it",
        begun.elapsed().as_secs_f64()
    ))
}

/// A reader that does not read is told that it has missed something; another one is not held up.
fn slow(world: &World, portal: &Portal, token: &str) -> Result<String> {
    project(world, "w-slow", "0")?;
    let admin = world.stolen(token)?;
    let run = &portal.runtime;
    let mut sleeper = run.block_on(open(portal, token, ""))?;
    let mut reader = run.block_on(open(portal, token, ""))?;
    let (mut slept, mut read) = (Copy::default(), Copy::default());
    run.block_on(slept.until(&mut sleeper, |_, e| e == EventType::Synced))?;
    run.block_on(read.until(&mut reader, |_, e| e == EventType::Synced))?;
    let last = CHANGES.to_string();
    let follow = run.spawn(async move {
        let done = read.until(&mut reader, |c, _| c.descriptions["w-slow"] == last).await;
        done.map(|()| read.resets.len())
    });
    let filler = "x".repeat(900);
    for first in (1..=CHANGES).step_by(100) {
        for i in first..first + 100 {
            let change = serde_json::json!({
                "spec": {"description": i.to_string()}, "metadata": {"annotations": {"filler": filler}},
            });
            let path = "/apis/slicewire.dev/v1alpha1/projects/w-slow";
            let answer = admin.ask("PATCH", path, Some(&change))?;
            ensure!(answer.code == 200, "{answer:?}");
        }
    }
    let resets = run.block_on(async { timeout(SOON * 2, follow).await })???;
    ensure!(resets == 1, "the quick reader was thrown back {} times", resets - 1);
    let last = CHANGES.to_string();
    run.block_on(slept.until(&mut sleeper, |c, _| c.descriptions.get("w-slow") == Some(&last)))?;
    ensure!(slept.resets.contains(&"SlowReader".to_owned()), "{:?}", slept.resets);
    Ok(format!("a reader that slept through {CHANGES} changes was told and brought up to date"))
}

/// What runs is told when it changes.
fn topology(world: &World, portal: &Portal, token: &str) -> Result<()> {
    let run = &portal.runtime;
    let next =
        |stream: &mut Streaming<rpc::WatchTopologyResponse>| -> Result<rpc::WatchTopologyResponse> {
            let told = run.block_on(async { timeout(SOON * 2, stream.message()).await });
            told.context("nothing was told")??.context("the watch ended")
        };
    let open = |resume: &str| {
        let request = rpc::WatchTopologyRequest {
            project: "demo".into(),
            slice: "blue".into(),
            resume_token: resume.into(),
        };
        run.block_on(async {
            let mut client = LiveServiceClient::new(portal.connect().await?);
            anyhow::Ok(client.watch_topology(with_token(token, request)).await?.into_inner())
        })
    };
    let mut stream = open("")?;
    let first = next(&mut stream)?;
    let pods = first.topology.context("no topology")?.attached_pods;
    world.pod("east", "shop", "portal-extra", None)?;
    let grown = (0..50).find_map(|_| {
        let told = next(&mut stream).ok()?;
        (told.topology?.attached_pods > pods).then_some(())
    });
    let deleted = world.k("east", "-n shop delete pod portal-extra --now");
    grown.context("a new pod on the slice was not told")?;
    deleted?;
    Ok(())
}
