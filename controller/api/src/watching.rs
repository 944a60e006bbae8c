//! Watches: a snapshot, then every change, each caller at its own pace.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prost::Message;
use slicewire_core::portal::position::Place;
use slicewire_core::violation::Violation;
use slicewire_rpc::hub::v1alpha1::EventType;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::Portal;
use crate::access::Deed;
use crate::fault::{Fault, Outcome};
use crate::feed::{Feed, Gone, Item, Step};
use crate::gate::Call;
use crate::kind::Kind;
use crate::limits;
use crate::past::missed;
use crate::read::{Selection, ready};

/// How long a watch may be quiet.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How often it is asked whether the caller may still watch.
const RECHECK: Duration = Duration::from_secs(15);
/// Steps taken out of the history at a time.
const BATCH: usize = 32;
/// Bytes told before they are let go: what is told without a pause is gathered in one buffer, and
/// every stream keeps its buffer at the size it once had.
const GATHERED: usize = 4 << 10;

/// A message of a watch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told<M> {
    /// What it says.
    pub(crate) event: EventType,
    /// About which object.
    pub(crate) message: Option<M>,
    /// Where a later watch goes on.
    pub(crate) token: String,
    /// Why a watch starts over.
    pub(crate) notice: &'static str,
}

/// What a watch is asked for.
#[derive(Debug, Default)]
pub(crate) struct WatchArgs {
    /// The project; empty: all.
    pub(crate) project: String,
    /// Which objects.
    pub(crate) filter: String,
    /// Where an earlier watch ended.
    pub(crate) token: String,
}

/// A caller's watch of one kind.
struct Watcher<K: Kind> {
    portal: Arc<Portal>,
    feed: Arc<Feed<K>>,
    call: Call,
    selection: Selection,
    moves: watch::Receiver<u64>,
    /// Number of the next step.
    next: u64,
    /// Everything up to here has been told.
    version: u64,
    /// Of a snapshot under way: what is left of it.
    snapshot: Option<VecDeque<Arc<Item<K::Message>>>>,
    /// Changes taken out of the history and not yet told.
    pending: VecDeque<Told<K::Message>>,
    /// Bytes told since the last pause.
    gathered: usize,
    heartbeat: Instant,
    recheck: Instant,
    ended: bool,
    _counted: limits::Stream,
    _gauge: Gauge,
}

/// Begins a watch.
pub(crate) async fn watch<K: Kind>(
    portal: Arc<Portal>,
    feed: Arc<Feed<K>>,
    call: Call,
    args: WatchArgs,
) -> Outcome<impl Stream<Item = Result<Told<K::Message>, Status>> + Send + 'static> {
    let mut faults = Vec::new();
    let selection = Selection::parse::<K>(&args.project, &args.filter);
    let selection = selection.map_err(|f| faults.extend(f)).ok();
    let scope = selection.as_ref().map_or(0, |s| s.scope);
    let place = resume_token(&args.token, scope, &mut faults);
    let (Some(selection), []) = (selection, faults.as_slice()) else {
        return Err(Fault::fields(faults));
    };
    may_watch::<K>(&portal, &call, &selection).await?;
    ready(&*feed).await?;
    let counted = portal.limits.stream(&call.caller.user)?;
    let now = Instant::now();
    let mut watcher = Watcher {
        moves: feed.moves(),
        _gauge: Gauge::new(&portal, call.method),
        portal,
        call,
        selection,
        next: 0,
        version: 0,
        snapshot: None,
        pending: VecDeque::new(),
        gathered: 0,
        heartbeat: now + HEARTBEAT,
        // Not all at once.
        recheck: now + RECHECK.mul_f64(rand::random_range(0.5..1.0)),
        ended: false,
        _counted: counted,
        feed,
    };
    watcher.begin(place).await;
    Ok(futures::stream::unfold(watcher, |mut watcher| async move {
        let told = watcher.tell().await?;
        Some((told, watcher))
    }))
}

fn resume_token(text: &str, scope: u64, faults: &mut Vec<Violation>) -> Option<Place> {
    if text.is_empty() {
        return None;
    }
    let place = Place::parse(text);
    let why = match &place {
        None => "is not a resume token; send resume_token as it came",
        Some(place) if place.scope != scope && faults.is_empty() => {
            "is of another watch: project and filter must be as they were"
        }
        Some(_) => return place,
    };
    faults.push(Violation::new("resume_token", text, "ResumeToken", why));
    None
}

async fn may_watch<K: Kind>(portal: &Portal, call: &Call, of: &Selection) -> Outcome<()> {
    // A watch tells what a list tells, too.
    for verb in ["list", "watch"] {
        let deed = Deed::with::<K::Object>(verb, of.namespace.as_deref().unwrap_or_default(), "");
        portal.access.require(&call.caller, deed).await?;
    }
    Ok(())
}

impl<K: Kind> Watcher<K> {
    async fn begin(&mut self, place: Option<Place>) {
        let Some(place) = place else { return self.start_over("Start") };
        if place.history != self.feed.history {
            return self.go_on(place.version).await;
        }
        (self.next, self.version) = (place.next, place.version);
        match self.feed.steps(self.next, 1) {
            Err(Gone) => self.start_over("HistoryGone"),
            // What was missed comes first, then the word that this was all.
            Ok(_) => self.snapshot = Some(VecDeque::new()),
        }
    }

    /// Goes on where a watch of another process, or of this one before it was started anew, ended.
    async fn go_on(&mut self, version: u64) {
        // First what is there: what goes while it is asked what is gone, the steps tell.
        let namespace = self.selection.namespace.as_deref();
        let (items, next, now) = self.feed.snapshot(namespace);
        let Ok(gone) = self.feed.gone_since(&self.portal.client, version).await else {
            return self.start_over("HistoryGone");
        };
        let inside = |i: &Arc<Item<K::Message>>| namespace.is_none_or(|ns| ns == i.key.0);
        let (removed, written) = missed(&items, gone.into_iter().filter(inside).collect(), version);
        let mut pending = VecDeque::new();
        for item in removed {
            pending.push_back((EventType::Deleted, item));
        }
        for item in written {
            // Whether it matched before is not known.
            let wanted = self.selection.wants(&item);
            let event = if wanted { EventType::Changed } else { EventType::Deleted };
            pending.push_back((event, item));
        }
        // Told at once or anew: until all of it is, a later watch goes on where this one did.
        let untold = |(event, item): (EventType, Arc<Item<K::Message>>)| Told {
            event,
            message: Some(item.message.clone()),
            token: String::new(),
            notice: "",
        };
        self.pending = pending.into_iter().map(untold).collect();
        (self.next, self.version) = (next, now.max(version));
        self.snapshot = Some(VecDeque::new());
    }

    fn start_over(&mut self, notice: &'static str) {
        if notice == "SlowReader" {
            let labels = [("method", self.call.method)];
            let help = "Watches that started over because their reader was too slow.";
            self.portal.metrics.count("slicewire_api_resyncs_total", help, &labels, 1.0);
        }
        let (items, next, version) = self.feed.snapshot(self.selection.namespace.as_deref());
        (self.next, self.version) = (next, version);
        self.snapshot = Some(items.into());
        let token = String::new();
        self.pending =
            VecDeque::from([Told { event: EventType::Reset, message: None, token, notice }]);
    }

    /// The next message; nothing when the watch is over.
    async fn tell(&mut self) -> Option<Result<Told<K::Message>, Status>> {
        if self.ended {
            return None;
        }
        if self.gathered >= GATHERED {
            self.gathered = 0;
            tokio::task::yield_now().await;
        }
        let told = self.next_told().await;
        let told_bytes =
            |told: &Told<K::Message>| told.message.as_ref().map_or(0, |m| m.encoded_len());
        self.gathered += told.as_ref().map_or(0, told_bytes);
        self.ended = told.is_err();
        self.heartbeat = Instant::now() + HEARTBEAT;
        Some(told.map_err(|fault| fault.status(&self.call.id)))
    }

    async fn next_told(&mut self) -> Outcome<Told<K::Message>> {
        loop {
            self.check().await?;
            if let Some(told) = self.pending.pop_front() {
                return Ok(told);
            }
            if let Some(item) = self.snapshot.as_mut().and_then(VecDeque::pop_front) {
                if self.selection.wants(&item) {
                    return Ok(self.told(EventType::Existing, Some(item.message.clone())));
                }
                continue;
            }
            match self.feed.steps(self.next, BATCH) {
                Err(Gone) => self.start_over("SlowReader"),
                Ok(steps) if steps.is_empty() => {
                    if self.snapshot.take().is_some() {
                        return Ok(self.told(EventType::Synced, None));
                    }
                    if self.wait().await? {
                        return Ok(self.told(EventType::Heartbeat, None));
                    }
                }
                Ok(steps) => steps.iter().for_each(|step| self.take(step)),
            }
        }
    }

    fn take(&mut self, step: &Step<K::Message>) {
        self.next += 1;
        self.version = step.version;
        let inside = |item: &&Arc<Item<K::Message>>| {
            self.selection.namespace.as_ref().is_none_or(|ns| *ns == item.key.0)
                && self.selection.wants(item)
        };
        let before = step.before.as_ref().filter(inside);
        let (event, item) = match (before, step.after.as_ref().filter(inside)) {
            (_, Some(after)) => (EventType::Changed, after),
            (Some(before), None) => (EventType::Deleted, before),
            (None, None) => return,
        };
        let told = self.told(event, Some(item.message.clone()));
        self.pending.push_back(told);
    }

    fn told(&self, event: EventType, message: Option<K::Message>) -> Told<K::Message> {
        let whole = event != EventType::Existing;
        let (scope, history) = (self.selection.scope, self.feed.history);
        let place = Place { scope, history, next: self.next, version: self.version };
        let token = if whole { place.to_string() } else { String::new() };
        Told { event, message, token, notice: "" }
    }

    /// Whether the caller may still be told, and the watch still goes on.
    async fn check(&mut self) -> Outcome<()> {
        self.portal.goes_on(&self.call)?;
        let now = Instant::now();
        if self.recheck <= now {
            self.recheck = now + RECHECK;
            // The token may have expired, and rights may have been taken away.
            let caller = self.portal.identities.of_token(&self.call.caller.token).await?;
            self.call.caller = caller;
            may_watch::<K>(&self.portal, &self.call, &self.selection).await?;
        }
        Ok(())
    }

    /// Waits until there may be something to do; whether a heartbeat is due.
    async fn wait(&mut self) -> Outcome<bool> {
        self.gathered = 0;
        let mut wake = self.heartbeat.min(self.recheck);
        if let Some(deadline) = self.call.deadline {
            wake = wake.min(deadline);
        }
        tokio::select! {
            // The feed lives as long as the portal.
            moved = self.moves.changed() => {
                if moved.is_err() {
                    return Err(Fault::unavailable("the hub ends"));
                }
                Ok(false)
            }
            () = self.portal.stop.cancelled() => Ok(false),
            () = sleep_until(wake) => Ok(self.heartbeat <= Instant::now()),
        }
    }
}

/// Open streams of a method, counted.
pub(crate) struct Gauge {
    portal: Arc<Portal>,
    method: &'static str,
}

impl Gauge {
    pub(crate) fn new(portal: &Arc<Portal>, method: &'static str) -> Self {
        portal.streams(method, 1);
        Self { portal: portal.clone(), method }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.portal.streams(self.method, -1);
    }
}
