"""What a token must be to be believed: the set of forgeries of RFC 8725 and RFC 9068, each refused with its reason."""

from __future__ import annotations

import base64
import hmac
import json
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joserfc import jwk, jws

from gemstead.gateway.issuers import Came, Certificate, Claims, Identity, Issuer, Signing
from gemstead.gateway.tokens import TOKEN_MOST, TokenBook, usable_keys
from gemstead.ledger.denials import NONE_DENIED, Denial, Denials
from gemstead.refused import Reason, Refused

warnings.filterwarnings("ignore", module="joserfc")
NOW = 1_800_000_000.0
ISS = "https://id.example"
RSA = jwk.RSAKey.generate_key(2048, {"kid": "r1"}, private=True)
RSA2 = jwk.RSAKey.generate_key(2048, {"kid": "r2"}, private=True)
warnings.filterwarnings("ignore", message="Key size")
SHORT = jwk.RSAKey.generate_key(1024, {"kid": "short"}, private=True)
EC = jwk.ECKey.generate_key("P-256", {"kid": "e1"}, private=True)
EC384 = jwk.ECKey.generate_key("P-384", {"kid": "e3"}, private=True)
ED = jwk.OKPKey.generate_key("Ed25519", {"kid": "o1"}, private=True)
ALL = ["RS256", "PS256", "ES256", "ES384", "Ed25519", "EdDSA", "HS256", "none"]


def jwks(*keys, **more):
    return json.dumps({"keys": [{**key.as_dict(private=False), **more} for key in keys]})


ISSUER = Issuer(
    name="corp",
    issuer=ISS,
    audience=("gemstead",),
    grants=(("ml", "developer"), ("sec", "auditor")),
    claims=Claims(tenant="org || 'default'", roles="roles"),
    jwks=jwks(RSA, EC, EC384, ED, SHORT),
)


def claims(**more):
    said = {"iss": ISS, "aud": "gemstead", "sub": "ann", "exp": NOW + 600, "iat": NOW - 5, "groups": ["ml"]}
    return {name: value for name, value in {**said, **more}.items() if value is not None}


def token(said=None, key=RSA, alg="RS256", **header):
    head = {"alg": alg, "kid": key.kid, "typ": "at+jwt", **header}
    head = {name: value for name, value in head.items() if value is not None}
    return signed(
        json.dumps(head).encode(), json.dumps(said if said is not None else claims()).encode(), key, alg
    )


def signed(head, body, key=RSA, alg="RS256"):
    """Signed by hand, so that what no library would write can be written."""
    first = b64(head) + b"." + b64(body)
    algorithm = jws.JWSRegistry.algorithms[alg]
    return first + b"." + b64(algorithm.sign(first, key))


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def book(issuer=ISSUER, ask=lambda issuer, kid: None, **more):
    return TokenBook(Identity(issuers=(issuer,), **more), ask=ask)


BOOK = book()


def refused(text, verifier=BOOK, now=NOW, denials=NONE_DENIED):
    with pytest.raises(Refused) as caught:
        verifier.find(text, now, denials)
    return caught.value


@pytest.mark.parametrize(
    ("key", "alg"),
    [(RSA, "RS256"), (RSA, "PS256"), (EC, "ES256"), (EC384, "ES384"), (ED, "Ed25519"), (ED, "EdDSA")],
)
def test_a_good_token_is_believed(key, alg):
    caller = BOOK.find(
        token(claims(org="acme", roles=["auditor", "made-up"], azp="app"), key, alg), NOW, NONE_DENIED
    )
    assert (caller.tenant, caller.user, caller.app) == ("acme", "ann", "app")
    assert caller.roles == ("auditor", "developer")
    assert caller.key_id == "corp:ann"


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", None])
@pytest.mark.parametrize("aud", ["gemstead", ["other", "gemstead"]])
def test_the_usual_forms_are_believed(typ, aud):
    assert BOOK.find(token(claims(aud=aud), typ=typ), NOW, NONE_DENIED).user == "ann"


def confused():
    """Signed with the public key as if it were a shared secret (RS256 to HS256)."""
    head = json.dumps({"alg": "HS256", "kid": "r1", "typ": "at+jwt"}).encode()
    first = b64(head) + b"." + b64(json.dumps(claims()).encode())
    return first + b"." + b64(hmac.digest(RSA.as_pem(private=False), first, "sha256"))


def unsigned(alg="none"):
    return b64(json.dumps({"alg": alg}).encode()) + b"." + b64(json.dumps(claims()).encode()) + b"."


def tampered():
    head, _, signature = token().split(b".")
    return b".".join((head, b64(json.dumps(claims(sub="root")).encode()), signature))


def own_key(**header):
    """Signed with a key of the attacker's, which the header offers."""
    return token(key=RSA2, kid="r1", **header)


OFFERED = RSA2.as_dict(private=False)
NEGATIVE = {
    "no algorithm": (unsigned(), "key pair"),
    "no algorithm, spelled otherwise": (unsigned("nOnE"), "how it is signed"),
    "public key as shared secret": (confused(), "key pair"),
    "changed payload": (tampered(), "signature is wrong"),
    "signature left out": (token().rsplit(b".", 1)[0] + b".", "signature is wrong"),
    "signature of another": (token(key=RSA2, kid="r1"), "signature is wrong"),
    "PS256 said, RS256 made": (signed(b'{"alg":"PS256","kid":"r1"}', json.dumps(claims()).encode()), "signature"),
    "key of another curve": (token(key=EC384, alg="ES384", kid="e1"), "signature is wrong"),
    "algorithm that is not allowed": (token(alg="RS512"), "not accepted"),
    "RSA key that is too short": (token(key=SHORT), "does not publish"),
    "for another": (token(claims(aud="billing")), "not meant for this service"),
    "for nobody": (token(claims(aud=None)), "not meant for this service"),
    "for a number": (token(claims(aud=7)), "not meant for this service"),
    "for many others": (token(claims(aud=["a", "b"])), "not meant for this service"),
    "of another issuer": (token(claims(iss="https://evil.example")), "not believed here"),
    "issuer with a slash more": (token(claims(iss=ISS + "/")), "not believed here"),
    "of no issuer": (token(claims(iss=None)), "who issued it"),
    "of a list of issuers": (token(claims(iss=[ISS])), "who issued it"),
    "expired": (token(claims(exp=NOW - 31)), "has expired"),
    "without end": (token(claims(exp=None)), "never expires"),
    "end that is no time": (token(claims(exp="tomorrow")), "`exp` is not a time"),
    "end that is true": (token(claims(exp=True)), "`exp` is not a time"),
    "end beyond all time": (token(claims(exp=1e300)), "`exp` is not a time"),
    "not valid yet": (token(claims(nbf=NOW + 31)), "not valid yet"),
    "made in the future": (token(claims(iat=NOW + 31)), "made in the future"),
    "about nobody": (token(claims(sub=None)), "whom it is about"),
    "about nothing": (token(claims(sub="")), "whom it is about"),
    "about a number": (token(claims(sub=5)), "whom it is about"),
    "of another type": (token(typ="logout+jwt"), "`typ`"),
    "of a type that is no text": (token(typ=["JWT"]), "`typ`"),
    "id token by nonce": (token(claims(nonce="n"), typ="JWT"), "id token"),
    "id token by at_hash": (token(claims(at_hash="h"), typ="JWT"), "id token"),
    "id token by Keycloak's word": (token(claims(typ="ID"), typ="JWT"), "id token"),
    "id token by Cognito's word": (token(claims(token_use="id"), typ="JWT"), "id token"),
    "crit": (token(crit=["exp"]), "crit"),
    "crit that is empty": (token(crit=[]), "crit"),
    "unencoded payload": (token(b64=False), "crit"),
    "key in the header": (own_key(jwk=OFFERED), "signature is wrong"),
    "address of keys in the header": (own_key(jku="http://127.0.0.1:9/keys"), "signature is wrong"),
    "address of a certificate in the header": (own_key(x5u="http://127.0.0.1:9/c"), "signature is wrong"),
    "certificate in the header": (own_key(x5c=["MIIB"]), "signature is wrong"),
    "key id that is a path": (token(kid="../../../../dev/null"), "does not publish"),
    "key id that is no text": (token(kid=["r1"]), "no text"),
    "too large": (token(claims(pad="x" * TOKEN_MOST)), "larger than"),
    "a name twice in the payload": (
        signed(b'{"alg":"RS256","kid":"r1"}', json.dumps(claims()).encode()[:-1] + b',"sub":"root"}'),
        "each name once",
    ),
    "a name twice in the header": (
        signed(b'{"alg":"none","alg":"RS256","kid":"r1"}', json.dumps(claims()).encode()),
        "each name once",
    ),
    "NaN": (signed(b'{"alg":"RS256","kid":"r1"}', b'{"exp":NaN}'), "each name once"),
    "payload that is a list": (signed(b'{"alg":"RS256","kid":"r1"}', b"[]"), "each name once"),
    "payload without end": (signed(b'{"alg":"RS256","kid":"r1"}', b"[" * 9000), "each name once"),
    "five parts (encrypted)": (b"a.b.c.d.e", "three parts"),
    "padding": (token().replace(b".", b"=.", 1), "base64url"),
    "a space inside": (token()[:9] + b" " + token()[9:], "base64url"),
    "base64 instead of base64url": (
        b64(b'{"a":">>>???"}').replace(b"-", b"+").replace(b"_", b"/") + b"+/.e30.",
        "base64url",
    ),
    "no JSON": (b64(b"\xff\xfe") + b"." + b64(b"{}") + b".AA", "each name once"),
    "user that cannot be written": (token(claims(sub="a\ud800b")), "plain text"),
    "user that is too long": (token(claims(sub="a" * 129)), "plain text"),
    "user with a line end": (token(claims(sub="a\nb")), "plain text"),
    "groups that are no list": (token(claims(groups={"ml": 1})), "no list"),
}  # fmt: skip


@pytest.mark.parametrize("name", NEGATIVE)
def test_what_must_be_refused_is_refused(name):
    text, words = NEGATIVE[name]
    verifier = book()
    refusal = refused(text, verifier)
    if refusal.reason is Reason.IDENTITY_PENDING:  # an unknown key is looked for once, and then refused
        verifier.learn({"corp": Signing(jwks=ISSUER.jwks, attempt=1)})
        refusal = refused(text, verifier)
    assert refusal.reason is Reason.UNAUTHENTICATED
    assert words in refusal.message


def test_without_a_role_nothing_may_be_done():
    assert refused(token(claims(groups=["sales"]))).reason is Reason.FORBIDDEN


def test_clocks_may_differ_a_little():
    said = claims(exp=NOW - 29, nbf=NOW + 29, iat=NOW + 29)
    assert BOOK.find(token(said), NOW, NONE_DENIED).user == "ann"


def test_strict_wants_all_of_rfc_9068():
    strict = book(Issuer(**{**{f: getattr(ISSUER, f) for f in Issuer.__struct_fields__}, "strict": True}))
    whole = claims(client_id="c", jti="1")
    assert strict.find(token(whole), NOW, NONE_DENIED).user == "ann"
    assert "RFC 9068" in refused(token(whole, typ="JWT"), strict).message
    for name in ("client_id", "jti", "iat"):
        assert (
            name
            in refused(
                token({**whole, name: 0} and {k: v for k, v in whole.items() if k != name}), strict
            ).message
        )


def test_id_tokens_count_where_the_file_says_so():
    google = book(
        Issuer(name="g", issuer=ISS, audience=("cl",), kind="id", default_roles=("viewer",), jwks=jwks(RSA))
    )
    said = claims(aud="cl", nonce="n", at_hash="h")
    assert google.find(token(said, typ="JWT"), NOW, NONE_DENIED).roles == ("viewer",)
    assert "access token" in refused(token(said), google).message


KUBERNETES = Issuer(
    name="cluster",
    issuer="https://kubernetes.default.svc",
    audience=("gemstead",),
    kind="service_account",
    default_roles=("service",),
    claims=Claims(tenant='"kubernetes.io".namespace', user="sub", app='"kubernetes.io".serviceaccount.name'),
    jwks=jwks(RSA),
)
POD = {
    "aud": ["gemstead"],
    "exp": NOW + 3607,
    "iat": NOW,
    "iss": "https://kubernetes.default.svc",
    "jti": "6b1f...",
    "kubernetes.io": {
        "namespace": "research",
        "node": {"name": "n1", "uid": "0"},
        "pod": {"name": "app-1", "uid": "1"},
        "serviceaccount": {"name": "indexer", "uid": "2"},
    },
    "nbf": NOW,
    "sub": "system:serviceaccount:research:indexer",
}


def test_a_pod_is_known_by_its_service_account():
    cluster = book(KUBERNETES)
    caller = cluster.find(token(POD, typ=None), NOW, NONE_DENIED)
    assert (caller.tenant, caller.app, caller.user) == ("research", "indexer", POD["sub"])
    other = {**POD, "kubernetes.io": None}
    assert "service account" in refused(token(other, typ=None), cluster).message


def test_a_token_is_remembered_until_it_expires():
    verifier, text = book(), token(claims(exp=NOW + 10))
    first = verifier.find(text, NOW, NONE_DENIED)
    assert verifier.find(text, NOW + 39, NONE_DENIED) is first
    assert "expired" in refused(text, verifier, NOW + 40).message


def test_who_was_verified_is_told_once_a_day_and_when_they_may_do_something_else():
    told = []
    verifier = TokenBook(Identity(issuers=(ISSUER,), certificates=(MESH,)), seen=told.append)
    ann = claims(org="acme", groups=["ml", "football"], roles=["viewer", "made-up"])
    verifier.find(token(ann), NOW, NONE_DENIED)
    for number in range(3):  # other tokens of the same person
        verifier.find(token({**ann, "jti": str(number)}), NOW, NONE_DENIED)
    came = Came(
        who="corp:ann", kind="token", tenant="acme", user="ann", roles=("viewer", "developer"), groups=("ml",)
    )
    assert told == [came]
    verifier.find(token({**ann, "groups": ["sec"], "roles": []}), NOW, NONE_DENIED)
    assert (told[1].roles, told[1].groups) == (("auditor",), ("sec",))
    verifier.find(token({**ann, "groups": ["sec"], "roles": [], "exp": NOW + 2e5}), NOW + 86_400, NONE_DENIED)
    assert len(told) == 3 and told[2] == told[1]
    refused(token(claims(sub="max", groups=[])), verifier)  # vouched for, and may do nothing
    verifier.of_certificate((b"1", CERTIFICATE), NOW, NONE_DENIED)
    assert (told[3].who, told[3].kind, told[3].roles) == ("mesh:0A0B", "certificate", ("service",))
    assert len(told) == 4


def test_what_is_remembered_is_bounded():
    verifier = TokenBook(Identity(issuers=(ISSUER,)), most=3)
    for number in range(9):
        verifier.find(token(claims(sub=f"u{number}"), EC, "ES256"), NOW, NONE_DENIED)
    assert len(verifier._found) == 3


def test_an_unknown_key_is_asked_for_once_and_waited_for():
    asked = []
    verifier = book(ask=lambda issuer, kid: asked.append((issuer, kid)))
    text = token(key=RSA2)
    for _ in range(3):
        refusal = refused(text, verifier)
        assert (refusal.reason, refusal.retry_after_s) == (Reason.IDENTITY_PENDING, 1.0)
    assert asked == [("corp", "r2")]
    verifier.learn({"corp": Signing(jwks=jwks(RSA, RSA2), attempt=1)})
    assert verifier.find(text, NOW, NONE_DENIED).user == "ann"


def test_noise_in_key_ids_makes_no_storm_of_fetches():
    asked = []
    verifier = book(ask=lambda issuer, kid: asked.append(kid))
    refused(token(kid="x0"), verifier)
    verifier.learn({"corp": Signing(jwks=ISSUER.jwks, attempt=1)})
    for number in range(50):
        assert refused(token(kid=f"x{number}"), verifier, NOW + 29).reason is Reason.UNAUTHENTICATED
    assert asked == ["x0"]
    refused(token(kid="y"), verifier, NOW + 31)
    assert asked == ["x0", "y"]


def test_a_failed_fetch_keeps_the_old_keys():
    verifier = book()
    verifier.learn({"corp": Signing(jwks="", attempt=5)})
    assert verifier.find(token(), NOW, NONE_DENIED).user == "ann"


def test_a_key_that_is_withdrawn_counts_no_more_also_for_remembered_tokens():
    verifier, text = book(), token()
    verifier.find(text, NOW, NONE_DENIED)
    verifier.learn({"corp": Signing(jwks=jwks(RSA2), attempt=1)})
    assert refused(text, verifier).reason is Reason.IDENTITY_PENDING


@pytest.mark.parametrize(
    ("denial", "gone"),
    [
        (Denial(issuer="corp", kind="token", value="t1", at=NOW), True),
        (Denial(issuer="corp", kind="token", value="t2", at=NOW), False),
        (Denial(issuer="*", kind="token", value="t1", at=NOW), True),
        (Denial(issuer="else", kind="token", value="t1", at=NOW), False),
        (Denial(issuer="corp", kind="token", value="t1", at=NOW, expires=NOW - 1), False),
        (Denial(issuer="corp", kind="subject", value="ann", at=NOW), True),
        (Denial(issuer="corp", kind="subject", value="ann", at=NOW - 100), False),  # issued after it
        (Denial(issuer="corp", kind="subject", value="ann", at=NOW - 100, forever=True), True),
        (Denial(issuer="corp", kind="subject", value="bob", at=NOW), False),
    ],
)
def test_a_denial_holds_for_a_token_that_is_remembered_too(denial, gone):
    verifier, text = book(), token(claims(jti="t1"))
    verifier.find(text, NOW, NONE_DENIED)
    if gone:
        assert "revoked" in refused(text, verifier, denials=Denials([denial])).message
    else:
        verifier.find(text, NOW, Denials([denial]))
    verifier.find(text, NOW, NONE_DENIED)  # lifted


CERTIFICATE = {
    "subject": ((("organizationName", "Acme"),), (("commonName", "indexer"),)),
    "issuer": ((("commonName", "Acme CA"),),),
    "serialNumber": "0A0B",
    "notAfter": "Jan  1 00:00:00 2030 GMT",
    "subjectAltName": (("URI", "spiffe://acme/ns/research/sa/indexer"), ("DNS", "indexer.research")),
}
MESH = Certificate(
    name="mesh",
    when="uri[?starts_with(@, 'spiffe://acme/')] | [0]",
    claims=Claims(tenant="subject.O", user="uri[0]", app="subject.CN", groups="", roles=""),
)


def test_a_certificate_stands_for_a_caller():
    verifier = TokenBook(Identity(certificates=(MESH,)))
    caller = verifier.of_certificate((b"1", CERTIFICATE), NOW, NONE_DENIED)
    assert (caller.tenant, caller.user, caller.app) == (
        "Acme",
        "spiffe://acme/ns/research/sa/indexer",
        "indexer",
    )
    assert (caller.key_id, caller.roles) == ("mesh:0A0B", ("service",))
    assert verifier.of_certificate((b"1", CERTIFICATE), NOW, NONE_DENIED) is caller
    assert verifier.of_certificate((b"2", {**CERTIFICATE, "subjectAltName": ()}), NOW, NONE_DENIED) is None
    for denials, now in (
        (Denials([Denial(issuer="mesh", kind="token", value="0A0B", at=NOW)]), NOW),
        (Denials([Denial(issuer="mesh", kind="subject", value=caller.user, at=NOW)]), NOW),
        (NONE_DENIED, 1_900_000_000.0),
    ):
        with pytest.raises(Refused):
            verifier.of_certificate((b"1", CERTIFICATE), now, denials)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (jwks(RSA, EC), 2),
        (jwks(RSA, use="enc"), 0),
        (jwks(RSA, key_ops=["sign"]), 0),
        (jwks(SHORT), 0),
        (json.dumps({"keys": [{"kty": "oct", "k": "AAAA"}, {"kty": "RSA"}, 5, {"kty": "XX"}]}), 0),
        (json.dumps({"keys": [RSA.as_dict(private=True)]}), 1),  # only its public half is taken
        ('{"keys": []}', 0),
    ],
)
def test_only_keys_that_fit_are_taken(text, count):
    keys = usable_keys(text)
    assert len(keys) == count
    assert not any(key.is_private for key in keys)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": 5}', "<html>", "[" * 5000])
def test_what_is_no_set_of_keys_is_said_to_be_none(text):
    with pytest.raises(ValueError, match="JWK set"):
        usable_keys(text)


def test_a_key_says_for_which_algorithm_it_is():
    verifier = book(Issuer(name="corp", issuer=ISS, audience=("gemstead",), default_roles=("viewer",),
                           jwks=jwks(RSA, alg="PS256")))  # fmt: skip
    assert verifier.find(token(alg="PS256"), NOW, NONE_DENIED).user == "ann"
    assert "signature" in refused(token(alg="RS256"), verifier).message


GOOD = token()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_token_that_was_changed_anywhere_is_never_believed(data):
    at = data.draw(st.integers(0, len(GOOD) - 1))
    letter = data.draw(st.integers(0, 255))
    changed = GOOD[:at] + bytes([letter]) + GOOD[at + 1 :]
    if changed == GOOD:
        return
    refused(changed, book())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet="eyJ.-_AQabc019=", max_size=200).map(str.encode))
@example(b"..")
@example(b".")
def test_noise_is_refused_and_never_breaks(noise):
    refused(noise)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = ["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "groups", "roles", "org", "azp", "client_id", "typ"]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), json_values, max_size=4))
def test_any_claims_under_a_good_signature_are_judged_and_never_break(odd):
    said = {**claims(), **odd}
    text = signed(b'{"alg":"ES256","kid":"e1"}', json.dumps(said).encode(), EC, "ES256")
    try:
        caller = BOOK.find(text, NOW, NONE_DENIED)
    except Refused as refusal:
        assert refusal.reason in (Reason.UNAUTHENTICATED, Reason.FORBIDDEN)
    else:
        assert said["iss"] == ISS and caller.user and caller.tenant and caller.roles
        assert said["exp"] > NOW - 31 and isinstance(said["sub"], str)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "jku", "b64", "zip"]), json_values, max_size=3
    )
)
def test_any_header_is_judged_and_never_breaks(odd):
    head = json.dumps({"alg": "ES256", "kid": "e1", **odd}).encode()
    text = signed(head, json.dumps(claims()).encode(), EC, "ES256")
    try:
        book().find(text, NOW, NONE_DENIED)
    except Refused:
        return
    assert odd.get("alg", "ES256") == "ES256" and "crit" not in odd
