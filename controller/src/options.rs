//! What the command line and the environment say.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use clap::{Args, Parser, Subcommand};

/// Slicewire's controllers.
#[derive(Debug, Parser)]
#[command(name = "controller", version, about)]
pub(crate) struct Options {
    /// Which controller to be.
    #[command(subcommand)]
    pub(crate) role: RoleOptions,
}

/// Which controller to be.
#[derive(Debug, Subcommand)]
pub(crate) enum RoleOptions {
    /// On the hub: plans slices and tells each cluster its part.
    Hub(HubOptions),
    /// In a worker cluster: carries out what the hub says, and reports.
    Worker(WorkerOptions),
}

/// Who this process is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Identity {
    /// Name of this pod; decides who leads when there are several.
    #[arg(long = "pod-name", env = "POD_NAME", default_value = "controller")]
    pub(crate) pod: String,
    /// Namespace of this pod.
    #[arg(long = "pod-namespace", env = "POD_NAMESPACE", default_value = "slicewire-system")]
    pub(crate) namespace: String,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "ADMIN_ADDRESS", default_value = "[::]:8080")]
    pub(crate) admin_address: SocketAddr,
}

/// `controller hub`.
#[derive(Debug, Clone, Args)]
pub(crate) struct HubOptions {
    /// Who this process is.
    #[command(flatten)]
    pub(crate) identity: Identity,
    /// Where the validating webhook is served.
    #[arg(long, env = "WEBHOOK_ADDRESS", default_value = "[::]:8443")]
    pub(crate) webhook_address: SocketAddr,
    /// Service in front of the webhook, in this pod's namespace.
    #[arg(long, env = "WEBHOOK_SERVICE", default_value = "slicewire-hub")]
    pub(crate) webhook_service: String,
    /// ValidatingWebhookConfiguration that has to trust the webhook's certificate.
    #[arg(long, env = "WEBHOOK_CONFIGURATION", default_value = "slicewire-hub")]
    pub(crate) webhook_configuration: String,
    /// More DNS names and addresses the webhook is called by.
    #[arg(long, env = "WEBHOOK_EXTRA_NAMES", value_delimiter = ',')]
    pub(crate) webhook_extra_names: Vec<String>,
    /// The API for portals.
    #[command(flatten)]
    pub(crate) api: ApiOptions,
}

/// The API for portals. It is served under the webhook's names and certificate unless told otherwise.
#[derive(Debug, Clone, Args)]
pub(crate) struct ApiOptions {
    /// Where the gRPC API is served; empty: nowhere.
    #[arg(long, env = "API_ADDRESS", default_value = "[::]:9443")]
    pub(crate) api_address: String,
    /// Secret in this pod's namespace with tls.crt and tls.key to serve the API with; looked at every
    /// minute. Empty: the webhook's certificate, whose authority is ca.crt of slicewire-hub-webhook.
    #[arg(long, env = "API_CERTIFICATE_SECRET", default_value = "")]
    pub(crate) api_certificate_secret: String,
    /// Web pages that may call the API from browsers, as https://portal.example; '*' is every page.
    #[arg(long, env = "API_ORIGINS", value_delimiter = ',')]
    pub(crate) api_origins: Vec<String>,
    /// URL of the hub's API server as clusters reach it, for join strings; empty: callers have to say it.
    #[arg(long, env = "API_HUB_SERVER", default_value = "")]
    pub(crate) api_hub_server: String,
    /// Calls of one method that one identity may make a second; twice as many at once.
    #[arg(long, env = "API_CALLS_OF_A_METHOD", default_value = "50")]
    pub(crate) api_calls_of_a_method: NonZeroU32,
    /// Calls that one identity may make a second; twice as many at once.
    #[arg(long, env = "API_CALLS", default_value = "100")]
    pub(crate) api_calls: NonZeroU32,
    /// Streams that one identity may have open.
    #[arg(long, env = "API_STREAMS", default_value_t = 100)]
    pub(crate) api_streams: usize,
}

/// `controller worker`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WorkerOptions {
    /// Who this process is.
    #[command(flatten)]
    pub(crate) identity: Identity,
    /// Secret with the way into the hub.
    #[arg(long, env = "HUB_SECRET", default_value = slicewire_api::labels::HUB_SECRET)]
    pub(crate) hub_secret: String,
    /// How gateway pods are made.
    #[command(flatten)]
    pub(crate) images: Images,
}

/// How gateway pods are made.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct Images {
    /// What stands before the image names.
    #[arg(long = "image-prefix", env = "SLICEWIRE_IMAGE_PREFIX", default_value = "slicewire.dev")]
    pub(crate) prefix: String,
    /// The images' tag.
    #[arg(long = "image-tag", env = "SLICEWIRE_IMAGE_TAG", default_value = "dev")]
    pub(crate) tag: String,
    /// When nodes pull them: Always, IfNotPresent or Never.
    #[arg(
        long = "image-pull-policy",
        env = "SLICEWIRE_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent"
    )]
    pub(crate) pull_policy: String,
    /// ServiceAccount of the gateway pods.
    #[arg(
        long = "gateway-service-account",
        env = "GATEWAY_SERVICE_ACCOUNT",
        default_value = "slicewire-gateway"
    )]
    pub(crate) service_account: String,
}
