//! `slicectl token`: letting clusters into a project.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use slicewire_api::condition::READY;
use slicewire_api::{JOIN_ACCOUNT, JoinToken, JoinTokenSpec, Project};
use slicewire_core::join::{MAX_EXPIRATION, MIN_EXPIRATION, Pattern};
use slicewire_core::name::{ProjectName, project_namespace, token_namespace};
use slicewire_core::violation::summary;
use slicewire_ticket::{Ticket, TicketError, certificates, secret_request};

use crate::apply::{MANAGER, is_gone};
use crate::cluster::{Cluster as Reached, HubArguments};
use crate::progress::{State, line, wait};
use crate::table::layout;

/// What is done with tokens.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a token; prints the string for 'slicectl join'. It is shown once and stored nowhere.
    Create(CreateArguments),
    /// Show tokens: for whom, how often, until when. Secrets are not shown.
    List(ListArguments),
    /// Take a token back: nobody joins with it any more. Who has joined stays.
    Revoke(RevokeArguments),
}

/// What the new token is for.
#[derive(Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    hub: HubArguments,
    /// The project to join; made where it does not exist.
    #[arg(long)]
    project: String,
    /// Which clusters it lets in: a name, or a pattern as 'edge-*'.
    #[arg(long, default_value = "*")]
    cluster: String,
    /// How long it can be used: seconds, or with a unit, as 30m, 12h or 7d.
    #[arg(long, default_value = "1h", value_parser = seconds)]
    expires: i64,
    /// How many clusters it lets in.
    #[arg(long, default_value_t = 1)]
    uses: i32,
    /// The hub's URL as workers reach it, where it differs from the one in the kubeconfig.
    #[arg(long)]
    server: Option<String>,
    /// Seconds to wait for the hub.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

/// Which tokens to show.
#[derive(Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    hub: HubArguments,
    /// Only this project's.
    #[arg(long)]
    project: Option<String>,
}

/// Which token to take back.
#[derive(Args)]
pub(crate) struct RevokeArguments {
    #[command(flatten)]
    hub: HubArguments,
    /// The token's name, as 'slicectl token list' shows it.
    name: String,
    /// Its project.
    #[arg(long)]
    project: String,
}

/// A time as people write it, in seconds.
fn seconds(text: &str) -> Result<i64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => 0,
    };
    let seconds = number.parse::<i64>().ok().and_then(|n| n.checked_mul(unit)).unwrap_or(0);
    if (MIN_EXPIRATION..=MAX_EXPIRATION).contains(&seconds) {
        return Ok(seconds);
    }
    Err(format!(
        "is not a time from {MIN_EXPIRATION} s to {} d, as 30m, 12h or 7d",
        MAX_EXPIRATION / (24 * 3600)
    ))
}

/// Does it.
///
/// # Errors
/// The hub cannot be reached, or refuses; told with the reason.
pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Create(arguments) => create(arguments).await?,
        Command::List(arguments) => list(arguments).await?,
        Command::Revoke(arguments) => revoke(arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(arguments: CreateArguments) -> Result<()> {
    let limit = Duration::from_secs(arguments.timeout);
    let project = project(&arguments.project)?;
    let clusters = match Pattern::parse("--cluster", &arguments.cluster) {
        Ok(pattern) => pattern,
        Err(faults) => bail!("{}", summary(&faults)),
    };
    let hub = arguments.hub.connect().await?;
    let server = hub_server(arguments.server.as_deref(), &hub.server)?;
    make_project(&hub.client, &project, limit).await?;
    let mut token = JoinToken::new(
        "",
        JoinTokenSpec {
            clusters: clusters.to_string(),
            uses: arguments.uses,
            expiration_seconds: arguments.expires,
        },
    );
    token.metadata.name = None;
    token.metadata.generate_name = Some("t-".to_owned());
    let tokens: Api<JoinToken> = Api::namespaced(hub.client.clone(), &project_namespace(&project));
    let made = tokens.create(&parameters(), &token).await.context("the hub refuses the token")?;
    let name = made.name_any();
    let mut expires = 0;
    wait(&format!("token {name} is ready"), limit, async || {
        let status = tokens.get(&name).await?.status.unwrap_or_default();
        let ready = status.conditions.iter().find(|c| c.type_ == READY);
        expires = status.expires.map_or(0, |t| t.0.as_second());
        Ok(match ready {
            Some(c) if c.status == "True" => State::Done,
            Some(c) => State::Waiting(c.message.clone()),
            None => State::Waiting("the hub controller has not seen it yet; does it run?".into()),
        })
    })
    .await?;
    let namespace = token_namespace(&project, &name);
    let secret = secret(&hub.client, &namespace, arguments.expires).await?;
    let authorities = authorities(&hub, &namespace).await?;
    let until = made.spec.expiration_seconds;
    let ticket = Ticket { server, authorities, project, name, clusters, expires, secret };
    line(&format!(
        "token {} of project {}: for clusters named {}, {} use(s), {until} s",
        ticket.name, ticket.project, ticket.clusters, made.spec.uses
    ));
    line("next: slicectl join <string> --kubeconfig <of the cluster>; the string is a secret");
    writeln!(io::stdout(), "{}", ticket.print()?)?;
    Ok(())
}

fn project(text: &str) -> Result<ProjectName> {
    ProjectName::parse(text).map_err(|faults| anyhow::anyhow!("--project: {}", summary(&faults)))
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

/// The hub's URL for workers; one that means the machine it is read on is of no use elsewhere.
fn hub_server(asked: Option<&str>, known: &str) -> Result<String> {
    slicewire_ticket::server(asked.unwrap_or(known), asked.is_some()).map_err(|error| match error {
        TicketError::Local(_) => {
            anyhow::anyhow!("{error}; say with --server how clusters reach the hub")
        }
        error => anyhow::anyhow!("{error}; say --server"),
    })
}

/// Makes the project where it is not there, and waits for its namespace.
async fn make_project(hub: &Client, project: &ProjectName, limit: Duration) -> Result<()> {
    let projects: Api<Project> = Api::all(hub.clone());
    let wanted = Project::new(project.as_str(), Default::default());
    match projects.create(&parameters(), &wanted).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => {
            return Err(error).with_context(|| {
                format!("cannot make project {project} on the hub; is it installed?")
            });
        }
    }
    wait(&format!("project {project} is there"), limit, async || {
        let status = projects.get(project.as_str()).await?.status.unwrap_or_default();
        Ok(match status.namespace {
            Some(_) => State::Done,
            None => State::Waiting("the hub controller has not made its namespace yet".to_owned()),
        })
    })
    .await
}

/// The secret: a token of the account that may do nothing but ask.
async fn secret(hub: &Client, namespace: &str, life: i64) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(hub.clone(), namespace);
    let request = secret_request(life);
    let how = PostParams::default();
    let given = accounts.create_token_request(JOIN_ACCOUNT, &how, &request);
    let given = given.await.with_context(|| {
        format!(
            "the hub gives no secret for {namespace}/{JOIN_ACCOUNT}; who makes tokens needs the \
             right to create serviceaccounts/token there"
        )
    })?;
    let status = given.status.context("the hub gave an empty secret")?;
    Ok(status.token)
}

/// What the hub is trusted by: as the kubeconfig has it, or as Kubernetes publishes it in every
/// namespace.
async fn authorities(hub: &Reached, namespace: &str) -> Result<Vec<Vec<u8>>> {
    if let Some(pem) = &hub.authorities {
        return Ok(certificates(pem)?);
    }
    let maps: Api<ConfigMap> = Api::namespaced(hub.client.clone(), namespace);
    let map = maps.get("kube-root-ca.crt").await.context(
        "the hub's kubeconfig names no certificate authority, and the hub publishes none",
    )?;
    let pem = map.data.and_then(|mut data| data.remove("ca.crt"));
    let pem = pem.context("the hub's ConfigMap kube-root-ca.crt has no entry ca.crt")?;
    Ok(certificates(&pem)?)
}

async fn list(arguments: ListArguments) -> Result<()> {
    let hub = arguments.hub.connect().await?;
    let tokens: Api<JoinToken> = match &arguments.project {
        Some(text) => Api::namespaced(hub.client.clone(), &project_namespace(&project(text)?)),
        None => Api::all(hub.client.clone()),
    };
    let found =
        tokens.list(&ListParams::default()).await.context("cannot list the hub's tokens")?;
    let rows: Vec<Vec<String>> = found.items.iter().map(row).collect();
    let head = ["PROJECT", "TOKEN", "CLUSTERS", "USED", "EXPIRES", "STATE", "JOINED"];
    io::stdout().write_all(layout(&head, &rows).as_bytes())?;
    Ok(())
}

fn row(token: &JoinToken) -> Vec<String> {
    let status = token.status.clone().unwrap_or_default();
    let state = status.conditions.iter().find(|c| c.type_ == READY);
    let namespace = token.namespace().unwrap_or_default();
    let joined: Vec<&str> = status.joined.iter().map(|j| j.cluster.as_str()).collect();
    vec![
        namespace.strip_prefix("slicewire-").unwrap_or(&namespace).to_owned(),
        token.name_any(),
        token.spec.clusters.clone(),
        format!("{}/{}", status.used, token.spec.uses),
        status.expires.map_or_else(String::new, |t| t.0.to_string()),
        state.map_or_else(|| "Unknown".to_owned(), |c| c.reason.clone()),
        joined.join(","),
    ]
}

async fn revoke(arguments: RevokeArguments) -> Result<()> {
    let hub = arguments.hub.connect().await?;
    let namespace = project_namespace(&project(&arguments.project)?);
    let tokens: Api<JoinToken> = Api::namespaced(hub.client, &namespace);
    let name = &arguments.name;
    match tokens.delete(name, &DeleteParams::background()).await {
        Ok(_) => {}
        Err(error) if is_gone(&error) => bail!(
            "there is no token {name} in project {}; 'slicectl token list' shows those there are",
            arguments.project
        ),
        Err(error) => return Err(error).context("the hub does not take the token back"),
    }
    wait(&format!("token {name} is revoked"), Duration::from_secs(60), async || {
        Ok(match tokens.get_opt(name).await? {
            None => State::Done,
            Some(_) => State::Waiting("its namespace is being removed".to_owned()),
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in
            [("90", 90), ("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "h", "0h", "5s", "31d", "1w", "-1h", "99999999999999999999h"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_has_a_url_of_this_machine_only_is_told_what_to_say() {
        let error = hub_server(None, "https://127.0.0.1:6443").unwrap_err().to_string();
        assert!(error.contains("127.0.0.1") && error.contains("--server"), "{error}");
        assert_eq!(hub_server(Some("https://hub"), "https://127.0.0.1").unwrap(), "https://hub");
    }
}
