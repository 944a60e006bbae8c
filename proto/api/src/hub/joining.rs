//! Kinds on the hub by which clusters join: tokens, and requests made with them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Account, in the namespace of a token, whose tokens the token's secret are.
pub const JOIN_ACCOUNT: &str = "joiner";

/// What a sealed credential is bound to, besides the key: see [`seal_context`]. HPKE (RFC 9180),
/// base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; this is its `info`.
pub const SEAL_INFO: &[u8] = b"slicewire.dev/v1alpha1 JoinRequest credential";

/// The `aad` of a sealed credential: which request, in which namespace, as which cluster.
pub fn seal_context(namespace: &str, request: &str, cluster: &str) -> Vec<u8> {
    format!("{namespace}/{request}/{cluster}").into_bytes()
}

/// A token with which clusters join the project.
///
/// It lives in the project's namespace. The hub makes a namespace for it,
/// `slicewire-<project>--join--<token>`, with an account that may do nothing but make JoinRequests
/// there and read them. The token's secret is a token of that account; `slicectl token create`
/// prints it, and nobody stores it. Deleting the object revokes it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "JoinToken",
    namespaced,
    status = "JoinTokenStatus",
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Clusters", type_ = "string", json_path = ".spec.clusters"),
    printcolumn(name = "Uses", type_ = "integer", json_path = ".spec.uses"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.used"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expires"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    validation = Rule::new("size(self.metadata.name) <= 20 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && !self.metadata.name.contains('--')")
        .message("metadata.name must be an RFC 1123 label of at most 20 characters without '--'"),
    validation = Rule::new("self.spec == oldSelf.spec").message("a token is not changed; make another one"),
    doc = "A token with which clusters join the project. Deleting it revokes it."
)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenSpec {
    /// Which clusters it lets in: a name, or a pattern in which `*` stands for any characters.
    #[serde(default = "any_cluster")]
    #[schemars(length(min = 1, max = 30))]
    pub clusters: String,
    /// How often it lets a cluster in. A cluster that joins once more counts once more.
    #[serde(default = "once")]
    #[schemars(range(min = 1, max = 1000))]
    pub uses: i32,
    /// Seconds it lives, from its creation on, by the hub's clock: a minute to 30 days.
    #[serde(default = "an_hour")]
    #[schemars(range(min = 60, max = 2_592_000))]
    pub expiration_seconds: i64,
}

impl Default for JoinTokenSpec {
    fn default() -> Self {
        Self { clusters: any_cluster(), uses: once(), expiration_seconds: an_hour() }
    }
}

fn any_cluster() -> String {
    "*".to_owned()
}

fn once() -> i32 {
    1
}

fn an_hour() -> i64 {
    3600
}

/// What the hub knows about a token.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenStatus {
    /// The generation this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The hub namespace in which it is used; its secret opens no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// How often it has let a cluster in.
    #[serde(default)]
    pub used: i32,
    /// Whom it has let in: the book of its uses, written before anybody is answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<Joined>,
    /// `Ready`: it can be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A use of a token.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    /// The cluster's name.
    pub cluster: String,
    /// Uid of the JoinRequest.
    pub request: String,
    /// Uid of the account whose credentials die with this use, as the same cluster had them before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// A cluster's wish to join, made with a token; gone some minutes after it was answered.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "JoinRequest",
    namespaced,
    status = "JoinRequestStatus",
    derive = "PartialEq",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(
        name = "Admitted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Admitted')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Admitted')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec == oldSelf.spec").message("a request is not changed; make another one"),
    doc = "A cluster's wish to join, made with a token; gone some minutes after it was answered."
)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequestSpec {
    /// The name to join under.
    #[schemars(length(min = 1, max = 30))]
    pub cluster: String,
    /// Which cluster it is: the uid of its namespace `kube-system`.
    #[schemars(length(min = 36, max = 36))]
    pub cluster_uid: String,
    /// X25519 public key to which the credential is sealed: 32 bytes, base64. Its private half is
    /// used once and never stored.
    #[schemars(length(min = 44, max = 44))]
    pub public_key: String,
}

/// The answer to a JoinRequest.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequestStatus {
    /// What the cluster gets when it is let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<SealedCredential>,
    /// `Admitted`: true with a credential, or false with every reason and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A worker's first credential, readable only by who made the request.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SealedCredential {
    /// The project joined.
    pub project: String,
    /// The hub namespace it opens.
    pub namespace: String,
    /// The encapsulated key (HPKE's `enc`), base64.
    pub encapsulated_key: String,
    /// The token of the worker's account, sealed, base64.
    pub sealed_token: String,
}
