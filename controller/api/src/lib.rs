//! The API a portal is built on: gRPC over the hub's objects and over what runs.
//!
//! Kubernetes is the only store and the only authority. A caller brings a token that the API server
//! knows; what is written goes there with that token, and what is read is answered from memory only
//! to who may read it there. So what a person may not do with kubectl, the API does not do for them,
//! and the hub needs no right to act as somebody else.
//!
//! | module | does |
//! |---|---|
//! | [`kinds`] | every kind of the API |
//! | [`kind`] | between an object and a message |
//! | [`feed`] | what the objects are, and what became of them lately |
//! | `gate` | what every call passes |
//! | `identity`, `access` | who calls, and what they may see |
//! | `read`, `write`, `watching` | the methods |
//! | [`joining`], `keys` | those that are a kind's own |
//! | [`live`] | what runs |
//! | [`server`] | TLS, gRPC, gRPC-web |

pub mod access;
pub mod fault;
pub mod feed;
mod gate;
pub mod identity;
pub mod joining;
mod keys;
pub mod kind;
pub mod kinds;
pub mod limits;
pub mod live;
mod mask;
mod past;
mod read;
mod serve;
pub mod server;
pub mod shape;
pub mod upstream;
mod watching;
mod write;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::Stream;
use slicewire_runtime::Metrics;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use access::Access;
use feed::Feed;
use identity::Identities;
use joining::Way;
use kinds::Feeds;
use limits::{Bounds, Limits};
use live::{Event, Live};
use upstream::Upstream;

/// What a method that streams returns.
pub type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How often what is only remembered for a while is looked through.
const TIDY: Duration = Duration::from_secs(60);

/// Everything the methods need.
pub struct Portal {
    /// Objects, filled by whoever watches them.
    pub feeds: Feeds,
    /// What runs.
    pub live: Live,
    /// What happened lately, filled as the feeds are.
    pub events: Arc<Feed<Event>>,
    identities: Identities,
    access: Access,
    limits: Limits,
    client: kube::Client,
    upstream: Upstream,
    way: Way,
    metrics: Metrics,
    stop: CancellationToken,
    open: Mutex<BTreeMap<&'static str, i64>>,
}

impl Portal {
    /// `client` asks about callers with the hub's own credential; `config` is the way to the same
    /// API server, whose credential is not used; `server` is its URL as clusters reach it, where that is
    /// known.
    ///
    /// # Errors
    /// The configuration is of no use.
    pub fn new(
        client: kube::Client,
        config: kube::Config,
        server: String,
        live: Live,
        bounds: Bounds,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, kube::Error> {
        let portal = Arc::new(Self {
            feeds: Feeds::new(rand::random()),
            live,
            events: Arc::new(Feed::new(rand::random())),
            identities: Identities::new(client.clone()),
            access: Access::new(client.clone()),
            client,
            limits: Limits::new(bounds),
            way: Way { server, authorities: config.root_cert.clone().unwrap_or_default() },
            upstream: Upstream::new(config)?,
            metrics,
            stop,
            open: Mutex::default(),
        });
        tokio::spawn(tidy(Arc::downgrade(&portal)));
        Ok(portal)
    }

    /// Counts open streams.
    fn streams(&self, method: &'static str, by: i64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(method).or_insert(0);
        *count += by;
        let help = "Streams of the API that are open.";
        // A count of streams is far below where doubles leave numbers out.
        let count = i32::try_from(*count).map_or(f64::MAX, f64::from);
        self.metrics.set("slicewire_api_streams", help, &[("method", method)], count);
    }
}

async fn tidy(portal: std::sync::Weak<Portal>) {
    loop {
        tokio::time::sleep(TIDY).await;
        let Some(portal) = portal.upgrade() else { return };
        portal.limits.tidy();
    }
}
