//! Whether a token can be had as it is written, and what who asks with it says.

use kube::ResourceExt;
use slicewire_api::JoinRequest;
use slicewire_core::join::{Applicant, Registered, Token};
use slicewire_core::name::ProjectName;
use slicewire_core::violation::Violation;

use super::observe::Observed;
use crate::hub::slice::gateways::public_key;

/// A token of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ValidatedToken {
    pub(super) project: ProjectName,
    /// The token as it is now, its uses counted.
    pub(super) token: Token,
}

/// The token, or every fault.
pub(super) fn validate(observed: &Observed) -> Result<ValidatedToken, Vec<Violation>> {
    let object = &observed.token;
    let spec = &object.spec;
    let created = object.creation_timestamp().map_or(0, |t| t.0.as_second());
    let token = Token::parse(
        &object.name_any(),
        &spec.clusters,
        i64::from(spec.uses),
        spec.expiration_seconds,
        created,
    );
    let Some(project) = &observed.project else {
        let what = "is not the namespace of a Project; create the JoinToken in the namespace that the Project's status names";
        let namespace = object.namespace().unwrap_or_default();
        let fault = Violation::new("metadata.namespace", namespace, "NotAProject", what);
        return Err([fault].into_iter().chain(token.err().unwrap_or_default()).collect());
    };
    let used = object.status.as_ref().map_or(0, |s| s.joined.len());
    let token = Token {
        used: u32::try_from(used).unwrap_or(u32::MAX),
        revoked: observed.deleting(),
        ..token?
    };
    Ok(ValidatedToken { project: project.clone(), token })
}

/// Who asks, or every fault of the request.
pub(super) fn applicant(request: &JoinRequest) -> Result<Applicant, Vec<Violation>> {
    let spec = &request.spec;
    let applicant = Applicant::parse(&spec.cluster, &spec.cluster_uid);
    let Err(fault) = public_key(&spec.public_key) else { return applicant };
    let what = "is not an X25519 public key: 32 bytes in base64";
    let fault = Violation::new("spec.publicKey", "", fault.reason(), what);
    Err(applicant.err().unwrap_or_default().into_iter().chain([fault]).collect())
}

/// The project's clusters as far as they matter to who asks.
pub(super) fn registered(observed: &Observed) -> Vec<Registered> {
    observed
        .clusters
        .iter()
        .map(|cluster| Registered {
            name: cluster.name_any(),
            uid: cluster.status.as_ref().and_then(|s| s.cluster_uid.clone()),
            leaving: cluster.metadata.deletion_timestamp.is_some(),
        })
        .collect()
}
