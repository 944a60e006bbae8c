use proptest::prelude::*;

use super::*;

const UID: &str = "0b1e4f5a-0000-4000-8000-000000000001";
const OTHER: &str = "0b1e4f5a-0000-4000-8000-000000000002";

fn token(pattern: &str, uses: i64) -> Token {
    Token::parse("t-1", pattern, uses, 600, 1_000).unwrap()
}

fn applicant(name: &str) -> Applicant {
    Applicant::parse(name, UID).unwrap()
}

fn registered(name: &str, uid: Option<&str>) -> Registered {
    Registered { name: name.into(), uid: uid.map(str::to_owned), leaving: false }
}

fn reasons(
    token: &Token,
    applicant: &Applicant,
    clusters: &[Registered],
    now: i64,
) -> Vec<&'static str> {
    let refused = decide(token, applicant, clusters, now).err().unwrap_or_default();
    refused.iter().map(Refusal::reason).collect()
}

#[test]
fn stars_stand_for_anything_and_nothing_else_does() {
    for (pattern, name, matches) in [
        ("east", "east", true),
        ("east", "east1", false),
        ("east", "eas", false),
        ("*", "anything", true),
        ("edge-*", "edge-7", true),
        ("edge-*", "ledge-7", false),
        ("*-eu", "a-eu", true),
        ("*-eu", "a-eu-1", false),
        ("e*g*7", "edge-7", true),
        ("e*g*7", "e7", false),
        ("a*a", "a", false),
        ("a*a", "aa", true),
        ("*ab*", "cabd", true),
    ] {
        let parsed = Pattern::parse("spec.clusters", pattern).unwrap();
        assert_eq!(parsed.matches(&ClusterName::parse(name).unwrap()), matches, "{pattern} {name}");
    }
    assert_eq!(Pattern::parse("f", "east").unwrap().only().unwrap().as_str(), "east");
    assert_eq!(Pattern::parse("f", "eas*").unwrap().only(), None);
    for bad in ["", "East", "a--b", "a--*", "a b*", &"a*".repeat(16)] {
        assert!(Pattern::parse("f", bad).is_err(), "{bad}");
    }
}

#[test]
fn a_faulty_token_is_told_every_fault() {
    let faults = Token::parse("T", "A", 0, 5, 0).unwrap_err();
    let mut fields: Vec<_> = faults.iter().map(|f| f.field.as_str()).collect();
    fields.dedup();
    assert_eq!(fields, ["metadata.name", "spec.uses", "spec.expirationSeconds", "spec.clusters"]);
}

#[test]
fn a_faulty_request_is_told_every_fault() {
    let faults = Applicant::parse("a--b", "x\u{1b}[31m").unwrap_err();
    let reasons: Vec<_> = faults.iter().map(|f| f.reason).collect();
    assert_eq!(reasons, ["NameSeparator", "MalformedUid"]);
}

#[test]
fn who_is_meant_is_let_in_until_the_end() {
    let clusters = [registered("east", None), registered("west", Some(OTHER))];
    let (token, me) = (token("east", 1), applicant("east"));
    assert_eq!(decide(&token, &me, &clusters, 1_599), Ok(Admission::New));
    assert_eq!(decide(&token, &me, &[], 1_599), Ok(Admission::New));
    assert_eq!(reasons(&token, &me, &clusters, 1_600), ["TokenExpired"]);
}

#[test]
fn every_reason_is_told_at_once() {
    let token = Token { used: 2, revoked: true, ..token("west-*", 2) };
    let clusters = [registered("east", Some(OTHER)), registered("old", Some(UID))];
    assert_eq!(
        reasons(&token, &applicant("east"), &clusters, 2_000),
        ["TokenRevoked", "TokenExpired", "TokenUsedUp", "OtherName", "NameTaken", "MemberAs"]
    );
}

#[test]
fn the_same_cluster_joins_again_and_another_does_not() {
    let mine = [registered("east", Some(UID))];
    assert_eq!(decide(&token("*", 1), &applicant("east"), &mine, 1_000), Ok(Admission::Again));
    let theirs = [registered("east", Some(OTHER))];
    assert_eq!(reasons(&token("*", 1), &applicant("east"), &theirs, 1_000), ["NameTaken"]);
    let going = [Registered { leaving: true, ..registered("east", Some(UID)) }];
    assert_eq!(reasons(&token("*", 1), &applicant("east"), &going, 1_000), ["Leaving"]);
    // Under another name while the old one goes: nobody is a member twice.
    assert_eq!(decide(&token("*", 1), &applicant("west"), &going, 1_000), Ok(Admission::New));
}

proptest! {
    /// However often and by whomever a token is used: never more than its number, never outside
    /// its pattern, never a name that another cluster has.
    #[test]
    fn a_token_never_lets_in_more_than_it_may(
        uses in 1i64..5,
        asked in prop::collection::vec((0usize..6, 0usize..6), 0..40),
    ) {
        let mut token = token("edge-*", uses);
        let mut clusters: Vec<Registered> = vec![registered("edge-0", Some(OTHER))];
        for (name, uid) in asked {
            let name = if name == 5 { "core".to_owned() } else { format!("edge-{name}") };
            let uid = format!("0b1e4f5a-0000-4000-8000-00000000001{uid}");
            let applicant = Applicant::parse(&name, &uid).unwrap();
            if let Ok(admission) = decide(&token, &applicant, &clusters, 1_000) {
                token.used += 1;
                let there = clusters.iter_mut().find(|c| c.name == name);
                prop_assert_eq!(admission == Admission::Again, there.is_some());
                if there.is_none() {
                    clusters.push(registered(&name, Some(&uid)));
                }
            }
        }
        prop_assert!(token.used <= token.uses);
        prop_assert!(clusters.iter().all(|c| c.name.starts_with("edge-")));
        prop_assert_eq!(clusters[0].uid.as_deref(), Some(OTHER));
        let mut uids: Vec<_> = clusters.iter().map(|c| c.uid.clone()).collect();
        uids.sort();
        uids.dedup();
        prop_assert_eq!(uids.len(), clusters.len());
    }
}
