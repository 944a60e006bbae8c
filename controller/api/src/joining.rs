//! Join tokens with the string to join with.
//!
//! Security: the string's secret opens nothing but the token's own namespace, to ask to be let in. Nobody
//! can be given a right there before there is the namespace, so who may have the secret is decided in
//! the project, by the right to `create` `jointokens/secret`, and the hub itself asks for it. It is
//! part of the answer and of nothing else: no log, no object, no memory keeps it.

use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use slicewire_api::condition::READY;
use slicewire_api::{JOIN_ACCOUNT, JoinToken};
use slicewire_core::join::Pattern;
use slicewire_core::name::{ProjectName, project_namespace};
use slicewire_core::violation::Violation;
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_ticket::{Ticket, TicketError, certificates, secret_request, server};
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::Portal;
use crate::access::Deed;
use crate::fault::{Fault, Outcome};
use crate::gate::Call;
use crate::kind::namespace_of;
use crate::kinds;
use crate::write;

/// How long the hub may take to make a token's namespace and account.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(200);
/// Why a token is not ready and never will be: with a repeated request it may be an old one.
const ENDED: [&str; 5] = ["NotAccepted", "TokenRevoked", "TokenExpired", "TokenUsedUp", "Flooded"];
/// Longest PEM text of authorities, in bytes.
const MAX_AUTHORITIES: usize = 64 << 10;

/// How clusters reach the hub.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Way {
    /// URL of the hub's API server; empty where only who asks knows it.
    pub server: String,
    /// DER certificates of the authorities it is trusted by.
    pub authorities: Vec<Vec<u8>>,
}

impl Way {
    /// The way that a request asks for, or else this one.
    fn of(&self, request: &rpc::CreateJoinTokenRequest) -> Result<Self, Vec<Violation>> {
        let asked = !request.server.is_empty();
        let url = if asked { &request.server } else { &self.server };
        let mut faults = Vec::new();
        let mut fault = |field: &str, error: TicketError| {
            let what = match (url.is_empty(), error) {
                (true, _) => "is needed: the hub does not know how clusters reach it".to_owned(),
                (false, error) => error.to_string(),
            };
            faults.push(Violation::new(field, "", "Server", what));
        };
        // What whoever runs the hub has configured is asked for, too.
        let url = server(url, true).map_err(|error| fault("server", error)).ok();
        let pem = &request.server_authorities;
        let authorities = match pem.is_empty() {
            true => Ok(self.authorities.clone()),
            false if !asked || pem.len() > MAX_AUTHORITIES => Err(TicketError::Authority),
            false => certificates(pem).and_then(|found| match found.is_empty() {
                true => Err(TicketError::Authority),
                false => Ok(found),
            }),
        };
        let authorities = authorities.map_err(|error| fault("server_authorities", error)).ok();
        match (url, authorities) {
            (Some(server), Some(authorities)) => Ok(Self { server, authorities }),
            _ => Err(faults),
        }
    }
}

/// Makes a token, and the string where it is asked for.
pub(crate) async fn create(
    portal: &Portal,
    call: &Call,
    request: rpc::CreateJoinTokenRequest,
) -> Outcome<rpc::CreateJoinTokenResponse> {
    let way = match request.want_join_string {
        true => {
            // Asked before anything is made. A project that is none is told of with everything else.
            let metadata = request.join_token.as_ref().and_then(|t| t.metadata.clone());
            let project = metadata.unwrap_or_default().project;
            if let Ok(namespace) = namespace_of::<kinds::JoinToken>("project", &project) {
                portal.access.require(&call.caller, secret_of(&namespace)).await?;
            }
            Some(portal.way.of(&request).map_err(Fault::fields)?)
        }
        false => None,
    };
    let (feed, dry) = (&*portal.feeds.tokens, request.validate_only);
    let made =
        write::create(portal, feed, call, request.join_token, dry, &request.request_id).await?;
    let join_string = match way.filter(|_| !dry) {
        Some(way) => join_string(portal, &made, way).await?,
        None => String::new(),
    };
    Ok(rpc::CreateJoinTokenResponse { join_token: Some(made), join_string })
}

/// The right to secrets of a project's tokens.
fn secret_of(namespace: &str) -> Deed {
    Deed::with::<JoinToken>("create", namespace, "").part("secret")
}

/// The string of a token that was just made, once it can be used.
async fn join_string(portal: &Portal, made: &rpc::JoinToken, way: Way) -> Outcome<String> {
    let metadata = made.metadata.clone().unwrap_or_default();
    let name = metadata.name;
    let project = ProjectName::parse(&metadata.project).map_err(Fault::fields)?;
    let tokens: Api<JoinToken> =
        Api::namespaced(portal.client.clone(), &project_namespace(&project));
    let token = match timeout(PATIENCE, ready(&tokens, &name)).await {
        Ok(token) => token?,
        Err(_) => return Err(not_yet(&name, "the hub takes long to make it ready")),
    };
    let status = token.status.unwrap_or_default();
    let ticket = Ticket {
        server: way.server,
        authorities: way.authorities,
        clusters: Pattern::parse("spec.clusters", &token.spec.clusters).map_err(Fault::fields)?,
        expires: status.expires.map_or(0, |t| t.0.as_second()),
        project,
        name,
        secret: String::new(),
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(portal.client.clone(), &ticket.namespace());
    let request = secret_request(token.spec.expiration_seconds);
    let how = PostParams::default();
    let given = accounts.create_token_request(JOIN_ACCOUNT, &how, &request).await;
    let given = given.map_err(|error| {
        tracing::warn!(%error, "the API server gives no secret for a join token");
        not_yet(&ticket.name, "the API server gives no secret for it")
    })?;
    let Some(given) = given.status else {
        return Err(not_yet(&ticket.name, "the API server gave an empty secret for it"));
    };
    tracing::info!(token = %ticket.name, "a join string is given out");
    let ticket = Ticket { secret: given.token, ..ticket };
    ticket.print().map_err(|error| Fault::new(Code::Internal, "Unreadable", error.to_string()))
}

/// Waits until clusters can join with the token.
async fn ready(tokens: &Api<JoinToken>, name: &str) -> Outcome<JoinToken> {
    loop {
        let found = tokens.get_opt(name).await.map_err(|error| Fault::of(&error))?;
        let Some(token) = found else {
            let message = format!("the token {name} has been deleted");
            return Err(Fault::new(Code::NotFound, "NotFound", message));
        };
        let conditions = token.status.iter().flat_map(|s| &s.conditions);
        match conditions.into_iter().find(|c| c.type_ == READY) {
            Some(c) if c.status == "True" => return Ok(token),
            Some(c) if ENDED.contains(&c.reason.as_str()) => {
                return Err(Fault::new(Code::FailedPrecondition, &c.reason, c.message.as_str()));
            }
            _ => {}
        }
        sleep(PAUSE).await;
    }
}

fn not_yet(name: &str, why: &str) -> Fault {
    let message = format!(
        "the token {name} is made and has no string yet: {why}; repeat the request with the same \
         request_id, or delete the token"
    );
    Fault {
        retry: Some(Duration::from_secs(1)),
        ..Fault::new(Code::Unavailable, "NoSecretYet", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(server: &str, authorities: &str) -> rpc::CreateJoinTokenRequest {
        rpc::CreateJoinTokenRequest {
            server: server.into(),
            server_authorities: authorities.into(),
            ..Default::default()
        }
    }

    fn fields(outcome: Result<Way, Vec<Violation>>) -> Vec<String> {
        outcome.err().into_iter().flatten().map(|fault| fault.field).collect()
    }

    #[test]
    fn the_way_to_the_hub_is_the_requests_or_the_configured_one() {
        let way = Way { server: "https://hub.example:6443".into(), authorities: vec![vec![7; 3]] };
        assert_eq!(way.of(&request("", "")).unwrap(), way);
        let other = way.of(&request("https://other.example/", "")).unwrap();
        assert_eq!(
            (other.server.as_str(), &other.authorities),
            ("https://other.example", &way.authorities)
        );
        let pem = slicewire_ticket::pem(&[1, 2]);
        let own = way.of(&request("https://other.example", &pem)).unwrap();
        assert_eq!(own.authorities, [[1, 2]]);
    }

    #[test]
    fn what_leads_nowhere_is_refused_by_its_field() {
        let way = Way { server: "https://hub.example".into(), authorities: vec![] };
        assert_eq!(fields(way.of(&request("http://other.example", ""))), ["server"]);
        assert_eq!(fields(way.of(&request("https://a", "no pem"))), ["server_authorities"]);
        let pem = slicewire_ticket::pem(&[1, 2]);
        // Authorities of a server that is not said.
        assert_eq!(fields(way.of(&request("", &pem))), ["server_authorities"]);
        let unknown = Way::default();
        assert_eq!(fields(unknown.of(&request("", "no pem"))), ["server", "server_authorities"]);
        let fault = &unknown.of(&request("", "")).unwrap_err()[0];
        assert!(fault.message.contains("is needed"), "{fault:?}");
    }

    #[test]
    fn the_right_to_a_secret_is_one_of_its_own() {
        let deed = secret_of("slicewire-demo");
        let what = (deed.verb, deed.resource.as_str(), deed.part);
        assert_eq!(what, ("create", "jointokens", "secret"));
    }
}
