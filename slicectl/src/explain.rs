//! Why the hub cannot be talked to, in words that say what to do.

use std::error::Error as _;

use hyper::Request;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::fmt::rfc2822;
use kube::Client;
use kube::client::Body;
use slicewire_ticket::Ticket;

/// An error of a connection, with everything that led to it.
pub(crate) fn connection(server: &str, error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    advice(server, &text)
}

fn advice(server: &str, text: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&["NotValidYet", "not valid yet"]) {
        return format!(
            "the certificate of the hub {server} is not valid yet by the clock of this machine; set the clock and try again"
        );
    }
    if has(&["CertExpired", "certificate expired", "Expired"]) {
        return format!(
            "the certificate of the hub {server} has expired, or the clock of this machine is ahead; set the clock, or renew the hub's certificate, and try again"
        );
    }
    if has(&["NotValidForName", "not valid for name"]) {
        return format!(
            "the certificate of the hub is not made for the address {server}; make a token with an address it is made for (slicectl token create --server)"
        );
    }
    if has(&["UnknownIssuer", "BadSignature", "invalid peer certificate"]) {
        return format!(
            "what answers at {server} is not the hub the token was made on, or the hub has a new certificate authority: its certificate is not signed by the token's; see that nothing stands between, or make a new token on the hub (slicectl token create)"
        );
    }
    format!(
        "the hub {server} cannot be reached from here: {text}; see that this machine and the cluster's pods reach it, or make a token with an address they reach (slicectl token create --server)"
    )
}

/// Why a token's secret is not taken, by the hub's clock.
pub(crate) async fn unknown_token(client: &Client, ticket: &Ticket) -> String {
    let now = hub_time(client).await;
    verdict(ticket.expires, now, Timestamp::now().as_second())
}

/// Seconds since 1970 by the hub's clock; `None` when it does not tell.
async fn hub_time(client: &Client) -> Option<i64> {
    let request = Request::get("/version").body(Body::empty()).ok()?;
    let answer = client.send(request).await.ok()?;
    http_date(answer.headers().get("date")?.to_str().ok()?)
}

fn http_date(text: &str) -> Option<i64> {
    let parser = rfc2822::DateTimeParser::new();
    parser.parse_timestamp(text).ok().map(Timestamp::as_second)
}

fn verdict(expires: i64, hub: Option<i64>, here: i64) -> String {
    let new = "make a new one on the hub: slicectl token create";
    let now = hub.unwrap_or(here);
    let skew = match hub.map(|hub| here - hub) {
        Some(ahead) if ahead > 30 => {
            format!(" (this machine's clock is {ahead} s ahead of the hub's)")
        }
        Some(ahead) if ahead < -30 => {
            format!(" (this machine's clock is {} s behind the hub's)", -ahead)
        }
        _ => String::new(),
    };
    if now >= expires {
        format!("TokenExpired: the token expired {} s ago{skew}; {new}", now - expires)
    } else {
        format!(
            "TokenRevoked: the hub does not know this token, although it would be valid for {} s more{skew}: it was revoked, or the hub was installed anew; {new}",
            expires - now
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_a_web_server_is_read() {
        assert_eq!(http_date("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn the_hubs_clock_decides_whether_a_token_expired_or_was_revoked() {
        assert!(verdict(1000, Some(1010), 0).starts_with("TokenExpired: the token expired 10 s"));
        let revoked = verdict(1000, Some(400), 5000);
        assert!(revoked.starts_with("TokenRevoked") && revoked.contains("600 s more"), "{revoked}");
        assert!(revoked.contains("4600 s ahead"), "{revoked}");
        assert!(verdict(1000, None, 2000).starts_with("TokenExpired"));
    }

    #[test]
    fn each_trouble_with_a_connection_has_its_own_advice() {
        for (text, expected) in [
            ("invalid peer certificate: UnknownIssuer", "not the hub the token was made on"),
            ("invalid peer certificate: NotValidYet", "not valid yet"),
            ("invalid peer certificate: Expired", "has expired"),
            ("invalid peer certificate: certificate not valid for name \"x\"", "--server"),
            ("tcp connect error: Connection refused", "cannot be reached"),
        ] {
            let said = advice("https://h", text);
            assert!(said.contains(expected) && said.contains("https://h"), "{text}: {said}");
        }
    }
}
