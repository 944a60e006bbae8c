//! Whether the hub has to be told anything.

use slicewire_api::ClusterStatus;

use super::observe::Observed;
use crate::kubernetes::change::{Change, Steps};

/// One change, or none.
pub(super) fn plan(observed: &Observed, status: &ClusterStatus) -> Steps {
    let known = observed.told.status.as_ref() == Some(status);
    let change = (!known).then(|| Change::status(&*observed.told, status));
    vec![change.into_iter().collect()]
}
