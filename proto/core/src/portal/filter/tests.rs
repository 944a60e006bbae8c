use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Values by dotted path.
struct Flat(BTreeMap<&'static str, Vec<Scalar<'static>>>);

impl Record for Flat {
    fn show(&self, path: &[String], see: &mut dyn FnMut(Scalar<'_>)) {
        self.0.get(path.join(".").as_str()).into_iter().flatten().for_each(|s| see(*s));
    }
}

fn sample() -> Flat {
    Flat(BTreeMap::from([
        ("metadata.name", vec![Scalar::Text("blue")]),
        ("metadata.labels.a.b/c", vec![Scalar::Text("x y")]),
        ("spec.clusters.name", vec![Scalar::Text("east"), Scalar::Text("west")]),
        ("status.pods", vec![Scalar::Number(9.0)]),
        ("status.ready", vec![Scalar::Bool(true)]),
    ]))
}

fn parse(text: &str) -> Filter {
    Filter::parse("filter", text).unwrap()
}

#[test]
fn what_matches() {
    let matching = [
        "",
        " ",
        "metadata.name = blue",
        "metadata.name = \"blue\" AND status.pods > 5",
        "metadata.name = red OR status.ready = true",
        "NOT metadata.name = red",
        "metadata.name != red",
        "spec.clusters.name = west",
        "spec.clusters.name : es",
        "metadata.name:*",
        "NOT metadata.color:*",
        "status.pods <= 9.0 AND status.pods >= 9 AND status.pods < 10",
        "metadata.labels.\"a.b/c\" = \"x y\"",
        "(metadata.name = red OR metadata.name = blue) AND NOT (status.pods = 3)",
    ];
    for text in matching {
        assert!(parse(text).matches(&sample()), "{text}");
        let not = format!("NOT ({})", if text.trim().is_empty() { "a = b" } else { text });
        let expected = text.trim().is_empty();
        assert_eq!(parse(&not).matches(&sample()), expected, "{not}");
    }
}

#[test]
fn and_binds_closer_than_or() {
    let filter = parse("metadata.name = blue OR a = b AND c = d");
    assert!(filter.matches(&sample()));
    assert!(!parse("(metadata.name = blue OR a = b) AND c = d").matches(&sample()));
}

#[test]
fn a_number_is_not_compared_as_text() {
    assert!(parse("status.pods < 10").matches(&sample()));
    assert!(!parse("status.pods < abc").matches(&sample()));
}

#[test]
fn faults_say_where() {
    for (text, part) in [
        ("a", "at byte 1: one of ="),
        ("a =", "at byte 3: a value"),
        ("a = b c = d", "at byte 6: AND, OR"),
        ("(a = b", "at byte 6: ')'"),
        ("a = \"b", "at byte 4: the quotation"),
        ("a ! b", "at byte 2: '!'"),
        (".a = b", "at byte 0: a field's path"),
    ] {
        let fault = Filter::parse("filter", text).unwrap_err();
        assert!(fault.message.contains(part), "{text}: {fault}");
    }
}

#[test]
fn there_are_bounds() {
    let many = vec!["a = b"; MAX_COMPARISONS + 1].join(" OR ");
    assert!(Filter::parse("filter", &many).is_err());
    let deep = format!("{}a = b{}", "(".repeat(40), ")".repeat(40));
    assert!(Filter::parse("filter", &deep).is_err());
    assert!(Filter::parse("filter", &"a".repeat(MAX_LENGTH + 1)).is_err());
    let bound = vec!["a = b"; MAX_COMPARISONS].join(" AND ");
    assert!(Filter::parse("filter", &bound).is_ok());
}

#[test]
fn paths_are_renamed_and_every_fault_is_told() {
    let told = parse("a.b = 1 AND NOT c.d = 2").with_paths(&mut |p| Err::<Vec<String>, _>(p));
    assert_eq!(told.unwrap_err().len(), 2);
    let upper = |p: Vec<String>| Ok::<_, ()>(p.iter().map(|s| s.to_uppercase()).collect());
    let renamed = parse("a.b = x").with_paths(&mut upper.clone()).unwrap();
    assert_eq!(renamed, parse("A.B = x"));
}

proptest! {
    #[test]
    fn nothing_makes_it_fall(text in "[a-c(). =!<>:\"\\\\ANDORT1*-]{0,200}") {
        if let Ok(filter) = Filter::parse("filter", &text) {
            filter.matches(&sample());
        }
    }

    #[test]
    fn not_is_the_opposite(name in "[a-z]{1,5}", pods in 0..20u8) {
        let text = format!("metadata.name = {name} OR status.pods >= {pods}");
        let (yes, no) = (parse(&text), parse(&format!("NOT ({text})")));
        prop_assert_ne!(yes.matches(&sample()), no.matches(&sample()));
        prop_assert_eq!(yes.matches(&sample()), name == "blue" || pods <= 9);
    }
}
