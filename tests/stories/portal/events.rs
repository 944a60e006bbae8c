//! Events, watched as they happen.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_rpc::hub::v1alpha1::EventType;
use slicewire_rpc::hub::v1alpha1::live_service_client::LiveServiceClient;
use slicewire_tests::portal::{Portal, with_token};
use slicewire_tests::world::{PROJECT_NS, World};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::watch::SOON;

/// What the Events are about that are watched.
const ABOUT: &str = "w-happened";

/// A portal's copy of the Events it watches: how often each happened.
#[derive(Default)]
pub(super) struct Copy {
    counts: BTreeMap<String, i32>,
    token: String,
    resets: Vec<String>,
}

impl Copy {
    fn take(&mut self, told: rpc::WatchEventsResponse) -> Result<()> {
        let (what, event) = (told.r#type(), told.event.unwrap_or_default());
        match what {
            EventType::Reset => {
                self.counts.clear();
                self.resets.push(told.notice);
            }
            EventType::Existing | EventType::Changed => {
                ensure!(event.name == ABOUT && event.project == "demo", "nobody asked: {event:?}");
                self.counts.insert(event.id, event.count);
            }
            EventType::Deleted => {
                self.counts.remove(&event.id);
            }
            EventType::Synced | EventType::Heartbeat => {}
            EventType::Unspecified => bail!("a message says nothing"),
        }
        if !told.resume_token.is_empty() {
            self.token = told.resume_token;
        }
        Ok(())
    }

    /// Reads on until these Events are known, so often each.
    fn until(
        &mut self,
        portal: &Portal,
        stream: &mut Streaming<rpc::WatchEventsResponse>,
        expected: &[(&str, i32)],
    ) -> Result<()> {
        let expected = expected.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect();
        portal.runtime.block_on(async {
            while self.counts != expected || self.token.is_empty() {
                let told = timeout(SOON, stream.message()).await;
                let told = told.with_context(|| format!("known: {:?}", self.counts))??;
                self.take(told.context("the watch ended")?)?;
            }
            Ok(())
        })
    }
}

fn open(
    portal: &Portal,
    token: &str,
    resume: &str,
) -> Result<Streaming<rpc::WatchEventsResponse>, Status> {
    let request = rpc::WatchEventsRequest {
        project: "demo".into(),
        filter: format!("name = {ABOUT} AND type = Warning"),
        resume_token: resume.to_owned(),
    };
    portal.runtime.block_on(async {
        let mut client = LiveServiceClient::new(portal.channel());
        Ok(client.watch_events(with_token(token, request)).await?.into_inner())
    })
}

/// Makes something happen to somebody so often.
fn happen(world: &World, id: &str, about: &str, count: i32) -> Result<()> {
    world.apply(
        "hub",
        &format!(
            r#"{{"apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "Tried", "count": {count},
            "metadata": {{"name": "{id}", "namespace": "{PROJECT_NS}"}},
            "involvedObject": {{"kind": "SliceConfig", "name": "{about}", "namespace": "{PROJECT_NS}"}}}}"#
        ),
    )?;
    Ok(())
}

/// A watch tells what happens, and happens again, to whom it was asked about, and goes on where it broke
/// off; who may not list Events is refused.
pub(super) fn watched(world: &World, portal: &Portal, token: &str, stranger: &str) -> Result<Copy> {
    let refused = open(portal, stranger, "").err().context("a stranger may watch")?;
    ensure!(refused.code() == Code::PermissionDenied, "{refused:?}");
    ensure!(refused.message().contains("events.k8s.io"), "{refused:?}");
    happen(world, "w-first", ABOUT, 1)?;
    let mut copy = Copy::default();
    let mut stream = open(portal, token, "")?;
    copy.until(portal, &mut stream, &[("w-first", 1)])?;
    happen(world, "w-other", "w-somebody", 1)?;
    happen(world, "w-first", ABOUT, 2)?;
    copy.until(portal, &mut stream, &[("w-first", 2)])?;
    drop(stream);
    gone(world, "w-first")?;
    happen(world, "w-second", ABOUT, 7)?;
    let mut stream = open(portal, token, &copy.token)?;
    copy.until(portal, &mut stream, &[("w-second", 7)])?;
    ensure!(copy.resets == ["Start"], "began anew without need: {:?}", copy.resets);
    Ok(copy)
}

/// The same watch goes on with another process of the hub, which may have to begin anew.
pub(super) fn after_restart(
    world: &World,
    portal: &Portal,
    token: &str,
    mut copy: Copy,
) -> Result<String> {
    gone(world, "w-second")?;
    happen(world, "w-third", ABOUT, 1)?;
    let mut stream = open(portal, token, &copy.token)?;
    copy.until(portal, &mut stream, &[("w-third", 1)])?;
    Ok(match copy.resets.len() {
        1 => "with nothing but what was missed".to_owned(),
        _ => format!("by a new snapshot ({})", copy.resets.last().context("none")?),
    })
}

fn gone(world: &World, id: &str) -> Result<()> {
    world.k("hub", &format!("-n {PROJECT_NS} delete event {id}")).map(drop)
}

/// Takes away what happened.
pub(super) fn tidy(world: &World) {
    let all = "w-first w-second w-third w-other";
    let _ = world.k("hub", &format!("-n {PROJECT_NS} delete event {all} --ignore-not-found"));
}
