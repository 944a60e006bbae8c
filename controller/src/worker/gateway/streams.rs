//! What gateways say of their tunnels: one stream per gateway pod.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slicewire_api::labels::ROUTES_PORT;
use slicewire_core::name::{Lane, SliceName, gateway_server_name};
use slicewire_core::violation::summary;
use slicewire_rpc::gateway::v1::route_service_client::RouteServiceClient;
use slicewire_rpc::gateway::v1::{WatchRoutesRequest, WatchRoutesResponse};
use slicewire_runtime::reconcile::backoff;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use crate::worker::Queues;
use crate::worker::certificates::Own;

/// What a gateway said last.
pub(in crate::worker) type Report = Arc<WatchRoutesResponse>;

/// Streams of all gateways. Clones share them.
#[derive(Clone)]
pub(crate) struct Streams {
    state: Arc<Mutex<State>>,
    queues: Queues,
    own: Own,
}

#[derive(Default)]
struct State {
    followed: BTreeMap<(String, Lane), Followed>,
    /// With the time at which they came.
    reports: BTreeMap<(String, Lane), (Instant, Report)>,
}

struct Followed {
    address: IpAddr,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Streams {
    pub(in crate::worker) fn new(queues: Queues, own: Own) -> Self {
        Self { state: Arc::default(), queues, own }
    }

    /// Follows these gateways of a slice and no others.
    pub(super) fn follow(&self, slice: &str, gateways: &BTreeMap<Lane, IpAddr>) {
        let mut state = self.lock();
        let stays = |(s, lane): &(String, Lane), followed: &Followed| {
            s != slice || gateways.get(lane) == Some(&followed.address)
        };
        state.followed.retain(|key, followed| stays(key, followed));
        let State { followed, reports } = &mut *state;
        reports.retain(|key, _| key.0 != slice || followed.contains_key(key));
        for (lane, address) in gateways {
            let key = (slice.to_owned(), *lane);
            if followed.contains_key(&key) {
                continue;
            }
            let task = tokio::spawn(self.clone().listen(key.clone(), *address));
            followed.insert(key, Followed { address: *address, task });
        }
    }

    /// What the gateways of a slice said last.
    pub(super) fn reports(&self, slice: &str) -> BTreeMap<Lane, Report> {
        self.heard(slice).into_iter().map(|(lane, (_, report))| (lane, report)).collect()
    }

    /// The same, with the time at which each came.
    pub(in crate::worker) fn heard(&self, slice: &str) -> BTreeMap<Lane, (Instant, Report)> {
        let from = (slice.to_owned(), 0);
        self.lock()
            .reports
            .range(from..)
            .take_while(|((s, _), _)| s == slice)
            .map(|((_, lane), heard)| (*lane, heard.clone()))
            .collect()
    }

    /// Listens until aborted.
    async fn listen(self, key: (String, Lane), address: IpAddr) {
        let mut failures = 0;
        loop {
            let heard = self.stream(&key, address).await;
            if self.lock().reports.remove(&key).is_some() {
                self.queues.gateways.add(key.0.clone());
            }
            failures = if matches!(heard, Ok(true)) { 1 } else { failures + 1 };
            if let Err(error) = heard {
                tracing::debug!(slice = %key.0, lane = key.1, %error, "no word from the gateway");
            }
            tokio::time::sleep(backoff(failures).clamp(LEAST_WAIT, LONGEST_WAIT)).await;
        }
    }

    /// One connection; whether anything was heard.
    async fn stream(&self, key: &(String, Lane), address: IpAddr) -> Result<bool, tonic::Status> {
        let uri = format!("https://{}", SocketAddr::new(address, ROUTES_PORT));
        let unavailable =
            |error: tonic::transport::Error| tonic::Status::unavailable(error.to_string());
        let none = || tonic::Status::unavailable("there is no certificate to show yet");
        let credentials = self.own.credentials().ok_or_else(none)?;
        let slice = SliceName::parse(&key.0)
            .map_err(|faults| tonic::Status::invalid_argument(summary(&faults)))?;
        let channel = Endpoint::from_shared(uri)
            .map_err(unavailable)?
            .tls_config(credentials.client(&gateway_server_name(&slice)))
            .map_err(unavailable)?
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .connect()
            .await
            .map_err(unavailable)?;
        let request = WatchRoutesRequest { watcher: "controller".to_owned() };
        let mut stream = RouteServiceClient::new(channel).watch_routes(request).await?.into_inner();
        let mut heard = false;
        while let Some(report) = stream.message().await? {
            heard = true;
            self.lock().reports.insert(key.clone(), (Instant::now(), Arc::new(report)));
            self.queues.gateways.add(key.0.clone());
        }
        Ok(heard)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const LEAST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
