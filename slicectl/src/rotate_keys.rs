//! `slicectl rotate-keys`: new keys for a slice's gateways, now.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use slicewire_api::SliceConfig;
use slicewire_api::condition::KEYS_CURRENT;
use slicewire_api::labels::ROTATE_KEYS;
use slicewire_core::member::sentence;
use slicewire_core::name::{ProjectName, SliceName, project_namespace};
use slicewire_core::violation::summary;

use crate::cluster::HubArguments;
use crate::progress::{State, line, wait};

/// Which slice.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The slice.
    slice: String,
    /// Its project.
    #[arg(long)]
    project: String,
    #[command(flatten)]
    hub: HubArguments,
    /// How many seconds to wait until every gateway has new keys; the nodes' kubelets alone take
    /// up to two minutes to bring them into the pods.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
    /// Asks for new keys and does not wait for them.
    #[arg(long)]
    no_wait: bool,
}

/// Asks for new keys and tells how far they are.
///
/// # Errors
/// There is no such slice, it may not be changed, or the keys are not there in time; then the old
/// ones work on, and the change goes on, too.
pub(crate) async fn rotate_keys(arguments: Arguments) -> Result<()> {
    let project = ProjectName::parse(&arguments.project)
        .map_err(|faults| anyhow::anyhow!("--project: {}", summary(&faults)))?;
    let name = SliceName::parse(&arguments.slice)
        .map_err(|faults| anyhow::anyhow!("the slice's name: {}", summary(&faults)))?;
    let hub = arguments.hub.connect().await?;
    let slices: Api<SliceConfig> = Api::namespaced(hub.client, &project_namespace(&project));
    let Some(slice) = slices.get_opt(name.as_str()).await? else {
        bail!("project {project} has no slice {name}; 'slicectl status' shows those it has");
    };
    if slice.spec.clusters.len() < 2 {
        bail!("slice {name} is in one cluster only: it has no gateways, and no keys");
    }
    let request = Timestamp::now().to_string();
    let asked = Patch::Merge(json!({ "metadata": { "annotations": { ROTATE_KEYS: request } } }));
    slices
        .patch(name.as_str(), &PatchParams::default(), &asked)
        .await
        .with_context(|| format!("slice {name} cannot be asked for new keys"))?;
    if arguments.no_wait {
        line(&format!("asked; condition {KEYS_CURRENT} of the SliceConfig tells how far it is"));
        return Ok(());
    }
    let limit = Duration::from_secs(arguments.timeout);
    wait(&format!("every gateway of {name} has new keys"), limit, async || {
        let Some(slice) = slices.get_opt(name.as_str()).await? else {
            bail!("the slice has been deleted");
        };
        Ok(progress(&slice, &request))
    })
    .await
    .context("the old keys work on, and so does the change; 'slicectl status' tells how it is")
}

/// How far a request is.
fn progress(slice: &SliceConfig, request: &str) -> State {
    let status = slice.status.clone().unwrap_or_default();
    let keys = status.keys.unwrap_or_default();
    if keys.request.as_deref() == Some(request) && keys.next_generation.is_none() {
        return State::Done;
    }
    let said = status.conditions.iter().find(|c| c.type_ == KEYS_CURRENT && c.status != "True");
    let reason = match (said, keys.request.as_deref() == Some(request)) {
        (Some(said), true) => sentence(&said.message),
        (Some(said), false) => {
            format!(
                "keys are being renewed already, and once more after that: {}",
                sentence(&said.message)
            )
        }
        (None, _) => "the hub controller has not taken it up yet; does it run?".to_owned(),
    };
    State::Waiting(reason)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use slicewire_api::condition::condition;
    use slicewire_api::{SliceConfigSpec, SliceConfigStatus, SliceKeys};

    use super::*;

    fn reason(request: Option<&str>, next: Option<u64>, message: Option<&str>) -> Option<String> {
        let mut slice = SliceConfig::new("blue", SliceConfigSpec::default());
        let request = request.map(str::to_owned);
        let keys = SliceKeys { request, next_generation: next, ..SliceKeys::default() };
        let now = Time(Timestamp::UNIX_EPOCH);
        let said = |text| condition(KEYS_CURRENT, false, "Renewing", text, None, now.clone());
        let conditions = message.map(said).into_iter().collect();
        let keys = Some(keys);
        slice.status = Some(SliceConfigStatus { keys, conditions, ..Default::default() });
        match progress(&slice, "now") {
            State::Done => None,
            State::Waiting(reason) => Some(reason),
        }
    }

    #[test]
    fn a_request_is_done_when_its_own_keys_are_the_only_ones() {
        assert_eq!(reason(Some("now"), None, None), None);
        let going = reason(Some("now"), Some(2), Some("Waiting: west"));
        assert_eq!(going.as_deref(), Some("Waiting: west"));
        let earlier = reason(Some("before"), Some(2), Some("Waiting: west")).unwrap();
        assert!(earlier.contains("once more") && earlier.contains("west"), "{earlier}");
        assert!(reason(None, None, None).unwrap().contains("does it run?"));
        assert!(reason(Some("before"), None, None).is_some());
    }
}
