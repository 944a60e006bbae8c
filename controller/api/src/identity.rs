//! Who calls: a bearer token, asked about at the API server (TokenReview).
//!
//! Whatever the API server takes for a token is one here: those of service accounts and those of
//! whichever OIDC issuers it trusts. Answers are remembered for some seconds, by the token's hash.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tonic::Code;
use tonic::metadata::MetadataMap;

use crate::fault::{Fault, Outcome};

/// How long an answer is taken for true.
const KEPT: Duration = Duration::from_secs(10);
/// How long a refusal is.
const REFUSAL_KEPT: Duration = Duration::from_secs(2);
/// Most answers kept.
const MOST: usize = 8192;
/// Questions under way at a time: who sends made-up tokens keeps the API server no busier than this.
const QUESTIONS: usize = 16;
/// Longest token.
const MAX_LENGTH: usize = 16 << 10;

/// A caller.
#[derive(Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user's name: who is counted and logged.
    pub user: Arc<str>,
    /// The user's uid.
    pub uid: Option<String>,
    /// The user's groups.
    pub groups: Vec<String>,
    /// Whatever else the authenticator said.
    pub extra: BTreeMap<String, Vec<String>>,
    /// The token, to act as the caller with.
    pub token: Arc<str>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("user", &self.user).finish_non_exhaustive()
    }
}

type Answers = HashMap<[u8; 32], (Instant, Option<Arc<Caller>>)>;

/// Asks who callers are.
pub struct Identities {
    reviews: Api<TokenReview>,
    answers: Mutex<Answers>,
    questions: Semaphore,
}

impl Identities {
    /// Asks with the hub's own client.
    pub fn new(client: Client) -> Self {
        Self {
            reviews: Api::all(client),
            answers: Mutex::default(),
            questions: Semaphore::new(QUESTIONS),
        }
    }

    /// Who sent this.
    ///
    /// # Errors
    /// There is no token, it is not taken, or nobody can be asked.
    pub async fn caller(&self, metadata: &MetadataMap) -> Outcome<Arc<Caller>> {
        self.of_token(bearer(metadata)?).await
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// It is not taken, or nobody can be asked.
    pub async fn of_token(&self, token: &str) -> Outcome<Arc<Caller>> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.known(&hash) {
            return known.ok_or_else(refused);
        }
        let busy = Duration::from_secs(2);
        let permit = tokio::time::timeout(busy, self.questions.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(Fault::unavailable("too many tokens are being checked; try again"));
        };
        if let Some(known) = self.known(&hash) {
            return known.ok_or_else(refused);
        }
        let caller = self.ask(token).await?;
        self.keep(hash, caller.clone());
        caller.ok_or_else(refused)
    }

    async fn ask(&self, token: &str) -> Outcome<Option<Arc<Caller>>> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), ..Default::default() };
        let review = TokenReview { spec, ..Default::default() };
        let answer = self.reviews.create(&PostParams::default(), &review).await;
        // A refusal here is about the hub's own rights: nothing the caller can mend.
        let answer = answer.map_err(|e| {
            tracing::warn!(error = %e, "the API server does not say whose a token is");
            Fault::unavailable("the hub's API server does not check tokens now; try again")
        })?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(None);
        }
        let user = status.user.unwrap_or_default();
        Ok(Some(Arc::new(Caller {
            user: user.username.unwrap_or_default().into(),
            uid: user.uid,
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
            token: token.into(),
        })))
    }

    fn known(&self, hash: &[u8; 32]) -> Option<Option<Arc<Caller>>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, caller) = answers.get(hash)?;
        let kept = if caller.is_some() { KEPT } else { REFUSAL_KEPT };
        (at.elapsed() < kept).then(|| caller.clone())
    }

    fn keep(&self, hash: [u8; 32], caller: Option<Arc<Caller>>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST {
            answers
                .retain(|_, (at, c)| at.elapsed() < if c.is_some() { KEPT } else { REFUSAL_KEPT });
        }
        if answers.len() < MOST {
            answers.insert(hash, (Instant::now(), caller));
        }
    }
}

fn bearer(metadata: &MetadataMap) -> Outcome<&str> {
    let value = metadata.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => "",
    };
    if token.is_empty() || token.len() > MAX_LENGTH {
        let message = "a Kubernetes bearer token is needed: send the metadata \
                       'authorization: Bearer <token>'";
        return Err(Fault::new(Code::Unauthenticated, "NoToken", message));
    }
    Ok(token)
}

fn refused() -> Fault {
    let message = "the hub's API server does not take this token; it may have expired";
    Fault::new(Code::Unauthenticated, "TokenRefused", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_needed() {
        let with = |value: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("authorization", value.parse().unwrap());
            bearer(&metadata).map(str::to_owned).map_err(|f| f.reason)
        };
        assert_eq!(with("Bearer abc"), Ok("abc".to_owned()));
        assert_eq!(with("bearer  abc "), Ok("abc".to_owned()));
        for none in ["", "Bearer", "Bearer ", "Basic abc", "abc"] {
            assert_eq!(with(none), Err("NoToken".to_owned()), "{none}");
        }
        let long = format!("Bearer {}", "x".repeat(MAX_LENGTH + 1));
        assert_eq!(with(&long), Err("NoToken".to_owned()));
    }

    #[test]
    fn a_token_is_not_told() {
        let caller = Caller {
            user: "eve".into(),
            uid: None,
            groups: Vec::new(),
            extra: BTreeMap::new(),
            token: "secret".into(),
        };
        assert!(!format!("{caller:?}").contains("secret"));
    }
}
