use super::*;

const NAME_OF_IT: &str = "blue.gateway.slicewire.internal";

fn at(days: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000) + DAY * u32::try_from(days).unwrap()
}

fn fresh() -> Authorities {
    Authorities::due(None, at(0)).unwrap().unwrap()
}

fn sign(authorities: &Authorities, day: u64) -> Signed {
    authorities.sign(NAME_OF_IT, Usage::Server, at(day)).unwrap()
}

/// Whose the signature is, by the position in a bundle of certificates.
fn signer(signed: &Signed, trusted: &str) -> Option<usize> {
    use x509_parser::pem::Pem;
    let leaf = Pem::iter_from_buffer(signed.credentials.certificate.as_bytes());
    let leaf = leaf.map(Result::unwrap).next().unwrap();
    let leaf = leaf.parse_x509().unwrap();
    Pem::iter_from_buffer(trusted.as_bytes()).map(Result::unwrap).position(|authority| {
        let authority = authority.parse_x509().unwrap();
        leaf.verify_signature(Some(authority.public_key())).is_ok()
    })
}

#[test]
fn the_first_authority_signs_at_once_and_stays_until_half_its_life_is_over() {
    let authorities = fresh();
    assert_eq!(signer(&sign(&authorities, 0), &authorities.trusted()), Some(0));
    assert!(Authorities::due(Some(&authorities), at(364)).unwrap().is_none());
    let two = Authorities::due(Some(&authorities), at(366)).unwrap().unwrap();
    assert_eq!(two.0.len(), 2);
    assert_eq!(two.0[1].certificate, authorities.0[0].certificate);
}

#[test]
fn a_new_authority_signs_only_when_all_had_a_day_to_learn_of_it() {
    let two = Authorities::due(Some(&fresh()), at(366)).unwrap().unwrap();
    assert_eq!(signer(&sign(&two, 366), &two.trusted()), Some(1), "the old one");
    assert_eq!(signer(&sign(&two, 367), &two.trusted()), Some(0), "the new one");
}

/// Five years, a look a day, one side always a day behind: whoever shows a certificate is trusted by
/// whoever has the news, and by whoever has not.
#[test]
fn everybody_accepts_everybody_at_every_moment() {
    let mut authorities = fresh();
    let mut holders = [sign(&authorities, 0), sign(&authorities, 0)];
    let mut made = 1;
    for day in 0..1826 {
        if let Some(new) = Authorities::due(Some(&authorities), at(day)).unwrap() {
            made += usize::from(new.0[0] != authorities.0[0]);
            authorities = new;
        }
        let [quick, slow] = &mut holders;
        let late = slow.clone();
        if !slow.good(&authorities, NAME_OF_IT, at(day)) {
            *slow = sign(&authorities, day);
        }
        if !quick.good(&authorities, NAME_OF_IT, at(day)) {
            *quick = sign(&authorities, day);
        }
        for (shown, judge) in [(&*quick, &late), (&late, &*quick), (&*slow, &late)] {
            let found = signer(shown, &judge.credentials.authorities);
            assert!(found.is_some(), "day {day}: a signature nobody knows");
            assert!(shown.end > seconds(at(day)), "day {day}: ended");
        }
    }
    assert!(made >= 4, "{made} authorities in five years: nothing was tried");
    assert!(authorities.0.len() <= 2, "old ones are dropped");
}

#[test]
fn what_is_written_is_read_and_damage_is_noticed() {
    let authorities = fresh();
    let mut entries = authorities.write();
    assert!(Authorities::read(&entries).is_some_and(|read| read == authorities));
    entries.insert(ALL.to_owned(), ByteString(b"[]".to_vec()));
    assert!(Authorities::read(&entries).is_none());

    let signed = sign(&authorities, 0);
    let entries = signed.write();
    assert_eq!(Signed::read(&entries), Some(signed));
    for entry in [AUTHORITIES, CERTIFICATE, KEY, NAME, END] {
        let mut missing = entries.clone();
        missing.remove(entry);
        assert_eq!(Signed::read(&missing), None, "without {entry}");
    }
    let mut broken = entries.clone();
    broken.insert(KEY.to_owned(), sign(&authorities, 0).write()[KEY].clone());
    assert_eq!(Signed::read(&broken), None, "with another's key");
}

#[test]
fn a_certificate_does_not_do_for_another_name_or_other_authorities() {
    let (authorities, others) = (fresh(), fresh());
    let signed = sign(&authorities, 0);
    assert!(signed.good(&authorities, NAME_OF_IT, at(19)));
    assert!(!signed.good(&authorities, NAME_OF_IT, at(21)), "soon to end");
    assert!(!signed.good(&authorities, "red.gateway.slicewire.internal", at(0)));
    assert!(!signed.good(&others, NAME_OF_IT, at(0)));
}
