//! The pods and the traffic of a slice, as they are asked for.

use std::time::Duration;

use slicewire_core::name::{ClusterName, check_label};
use slicewire_core::portal::position::{Page, scope};
use slicewire_core::violation::Violation;
use slicewire_rpc::hub::v1alpha1 as rpc;

use super::pods::{Wanted, place, pods};
use super::slot::Slot;
use super::traffic::traffic;
use super::watcher::View;
use crate::Portal;
use crate::fault::{Fault, Outcome};
use crate::gate::Call;
use crate::read::{page_size, page_token, ready};

/// Between the parts of a pod's place in a page token: no name holds it.
const BETWEEN: &str = "..";

/// The pods of a slice.
pub(super) struct Attached {
    slot: Slot,
    wanted: Wanted,
}

impl Attached {
    /// Checks the names; an empty cluster or namespace is any.
    pub(super) fn parse(
        [project, slice, cluster, namespace]: [&str; 4],
    ) -> Result<Self, Vec<Violation>> {
        let mut faults = Vec::new();
        let slot = Slot::parse(project, slice).map_err(|f| faults.extend(f)).ok();
        if !namespace.is_empty() {
            faults.extend(check_label("namespace", namespace, 63));
        }
        if !cluster.is_empty()
            && let Err(found) = ClusterName::parse(cluster)
        {
            let named = |fault| Violation { field: "cluster".to_owned(), ..fault };
            faults.extend(found.into_iter().map(named));
        }
        let [cluster, namespace] = [cluster, namespace].map(str::to_owned);
        match (slot, faults.is_empty()) {
            (Some(slot), true) => Ok(Self { slot, wanted: Wanted { cluster, namespace } }),
            _ => Err(faults),
        }
    }
}

impl View for Attached {
    type State = rpc::ListAttachedPodsResponse;
    type Response = rpc::WatchAttachedPodsResponse;
    /// There may be thousands, and all are sent.
    const TOGETHER: Duration = Duration::from_millis(500);

    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn scope(&self) -> u64 {
        let (Slot { project, name, .. }, Wanted { cluster, namespace }) =
            (&self.slot, &self.wanted);
        scope(&["pods", project.as_str(), name, cluster, namespace])
    }

    async fn look(&self, portal: &Portal, call: &Call) -> Outcome<Option<Self::State>> {
        self.slot.may_get(portal, call).await?;
        let Some(config) = portal.live.reports.slice(&self.slot.namespace, &self.slot.name) else {
            return Ok(None);
        };
        let reports = self.slot.pods(portal, call, &config).await?;
        Ok(Some(pods(&reports, &self.wanted)))
    }

    fn response(
        event: rpc::EventType,
        state: Option<Self::State>,
        resume_token: String,
    ) -> Self::Response {
        let state = state.unwrap_or_default();
        rpc::WatchAttachedPodsResponse {
            r#type: event.into(),
            pods: state.pods,
            withheld_clusters: state.withheld_clusters,
            incomplete_clusters: state.incomplete_clusters,
            resume_token,
        }
    }
}

/// A page of the pods of a slice.
pub(super) async fn list_attached(
    portal: &Portal,
    call: &Call,
    request: rpc::ListAttachedPodsRequest,
) -> Outcome<rpc::ListAttachedPodsResponse> {
    let mut faults = Vec::new();
    let rpc::ListAttachedPodsRequest { project, slice, cluster, namespace, .. } = &request;
    let view = Attached::parse([project, slice, cluster, namespace]);
    let view = view.map_err(|f| faults.extend(f)).ok();
    let size = page_size(request.page_size, &mut faults);
    let scope = view.as_ref().map_or(0, View::scope);
    let after = page_token(&request.page_token, scope, &mut faults);
    let (Some(view), []) = (view, faults.as_slice()) else {
        return Err(Fault::fields(faults));
    };
    ready(&*portal.feeds.slices).await?;
    let found = view.look(portal, call).await?.ok_or_else(|| view.slot.not_found())?;
    Ok(page(found, scope, after, size))
}

/// So many of them behind a page's end.
fn page(
    mut all: rpc::ListAttachedPodsResponse,
    scope: u64,
    after: Option<Page>,
    size: usize,
) -> rpc::ListAttachedPodsResponse {
    if let Some(Page { namespace, name, .. }) = after {
        let mut parts = name.splitn(3, BETWEEN).map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        let after = (namespace, part(), part(), part());
        all.pods.retain(|pod| place(pod) > after);
    }
    if all.pods.len() > size {
        all.pods.truncate(size);
        if let Some(last) = all.pods.last() {
            let (namespace, name, cluster, node) = place(last);
            let name = [name, cluster, node].join(BETWEEN);
            all.next_page_token = Page { scope, namespace, name }.to_string();
        }
    }
    all
}

/// What passes the tunnels of a slice.
pub(super) struct Passing(pub(super) Slot);

impl View for Passing {
    type State = rpc::Traffic;
    type Response = rpc::WatchTrafficResponse;
    /// Clusters tell of it every 15 s at most.
    const TOGETHER: Duration = Duration::from_millis(200);

    fn slot(&self) -> &Slot {
        &self.0
    }

    fn scope(&self) -> u64 {
        scope(&["traffic", self.0.project.as_str(), &self.0.name])
    }

    async fn look(&self, portal: &Portal, call: &Call) -> Outcome<Option<Self::State>> {
        self.0.may_get(portal, call).await?;
        let Some(config) = portal.live.reports.slice(&self.0.namespace, &self.0.name) else {
            return Ok(None);
        };
        let reports = self.0.traffic(portal, call, &config).await?;
        Ok(Some(traffic(self.0.project.as_str(), &self.0.name, &reports)))
    }

    fn response(
        event: rpc::EventType,
        traffic: Option<Self::State>,
        resume_token: String,
    ) -> Self::Response {
        rpc::WatchTrafficResponse { r#type: event.into(), traffic, resume_token }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_is_on_one_page_and_the_longest_names_go_on() {
        let long = "p".repeat(253);
        let pod = |name: &str, cluster: &str| rpc::AttachedPod {
            namespace: "n".repeat(63),
            name: name.into(),
            cluster: cluster.into(),
            node: "m".repeat(253),
            ..rpc::AttachedPod::default()
        };
        let mut all = vec![pod("a.b", "east"), pod("a.b", "west"), pod("a-b", "west")];
        all.extend((0..5).map(|i| pod(&long, &format!("{i}{}", "c".repeat(29)))));
        all.sort_by_cached_key(place);
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let whole = rpc::ListAttachedPodsResponse { pods: all.clone(), ..Default::default() };
            let one = page(whole, 7, after, 2);
            seen.extend(one.pods);
            if one.next_page_token.is_empty() {
                break;
            }
            after = Some(Page::parse(&one.next_page_token).unwrap());
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn every_name_that_is_none_is_told_at_once() {
        let faults = Attached::parse(["A", "blue", "no_name", "x y"]).err().unwrap();
        let fields: Vec<&str> = faults.iter().map(|f| f.field.as_str()).collect();
        for field in ["project", "cluster", "namespace"] {
            assert!(fields.contains(&field), "{fields:?}");
        }
    }
}
