//! Watches of what runs: the whole state whenever it changes, and only the newest to a slow reader.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::unfold;
use prost::Message;
use slicewire_core::portal::position::Place;
use slicewire_core::violation::Violation;
use slicewire_rpc::hub::v1alpha1::EventType;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::slot::Slot;
use crate::fault::{Fault, Outcome};
use crate::gate::Call;
use crate::limits;
use crate::watching::Gauge;
use crate::{Portal, Streamed};

/// How long a watch may be quiet; also how often rights are asked about anew.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A state of a slice that can be watched.
pub(super) trait View: Send + Sync + 'static {
    /// The whole of it.
    type State: Message;
    /// A message of the watch.
    type Response: Send;
    /// Changes that come closer together are told as one.
    const TOGETHER: Duration;

    /// The slice.
    fn slot(&self) -> &Slot;

    /// What tells this view from others.
    fn scope(&self) -> u64;

    /// The state as it is, as far as the caller may see it; `None` where there is no such slice.
    fn look(
        &self,
        portal: &Portal,
        call: &Call,
    ) -> impl Future<Output = Outcome<Option<Self::State>>> + Send;

    /// Puts a message together.
    fn response(event: EventType, state: Option<Self::State>, token: String) -> Self::Response;
}

/// A caller's watch.
struct Watcher<V> {
    portal: Arc<Portal>,
    call: Call,
    view: V,
    rings: watch::Receiver<u64>,
    /// In short, what the caller was told last.
    told: Option<u64>,
    heartbeat: Instant,
    ended: bool,
    _counted: limits::Stream,
    _gauge: Gauge,
}

/// Begins a watch, after what a resume token stands for.
pub(super) async fn watch<V: View>(
    portal: Arc<Portal>,
    call: Call,
    view: V,
    resume_token: &str,
) -> Outcome<Streamed<V::Response>> {
    let told = told(&view, resume_token)?;
    // Who may not look at all is told so at once.
    view.slot().may_get(&portal, &call).await?;
    let watcher = Watcher {
        rings: portal.live.listen(&view.slot().namespace, &view.slot().name),
        _counted: portal.limits.stream(&call.caller.user)?,
        _gauge: Gauge::new(&portal, call.method),
        heartbeat: Instant::now() + HEARTBEAT,
        portal,
        call,
        view,
        told,
        ended: false,
    };
    Ok(Box::pin(unfold(watcher, |mut w| async move { Some((w.tell().await?, w)) })))
}

impl<V: View> Watcher<V> {
    async fn tell(&mut self) -> Option<Result<V::Response, Status>> {
        if self.ended {
            return None;
        }
        let told = self.next().await;
        self.ended = told.is_err();
        self.heartbeat = Instant::now() + HEARTBEAT;
        Some(told.map_err(|fault| fault.status(&self.call.id)))
    }

    async fn next(&mut self) -> Outcome<V::Response> {
        loop {
            self.portal.goes_on(&self.call)?;
            self.rings.mark_unchanged();
            let state = self.view.look(&self.portal, &self.call).await?;
            let short = short(state.as_ref());
            if self.told != Some(short) {
                let event = if state.is_some() { EventType::Changed } else { EventType::Deleted };
                self.told = Some(short);
                return Ok(V::response(event, state, self.token(short)));
            }
            if self.heartbeat <= Instant::now() {
                self.call.caller = self.portal.identities.of_token(&self.call.caller.token).await?;
                return Ok(V::response(EventType::Heartbeat, None, self.token(short)));
            }
            let wake = self.call.deadline.map_or(self.heartbeat, |d| d.min(self.heartbeat));
            tokio::select! {
                _ = self.rings.changed() => tokio::time::sleep(V::TOGETHER).await,
                () = self.portal.stop.cancelled() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    fn token(&self, short: u64) -> String {
        Place { scope: self.view.scope(), history: short, next: 0, version: 0 }.to_string()
    }
}

/// What was told, in short, as the caller's token says.
fn told<V: View>(view: &V, token: &str) -> Outcome<Option<u64>> {
    if token.is_empty() {
        return Ok(None);
    }
    let place = Place::parse(token).filter(|p| p.scope == view.scope());
    place.map(|p| Some(p.history)).ok_or_else(|| {
        let what = "is not a resume token of this watch; send resume_token as it came";
        Fault::fields(vec![Violation::new("resume_token", token, "ResumeToken", what)])
    })
}

/// A state in short: the same in every process of the hub.
fn short<M: Message>(state: Option<&M>) -> u64 {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(state.map(Message::encode_to_vec).unwrap_or_default());
    hash.iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte))
}
