"""Trust bundles into everything that discovery streams serve of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import SPIFFECertValidatorConfig
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from meshca.compile.secrets import TRUST_SECRET, bundle_secrets
from meshca.errors import internal
from meshca.proto.meshca.v1 import certificates_pb2, discovery_pb2
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import TrustDomain
from meshca.xds.snapshot import SECRET_TYPE, Resource, Snapshot, content_version

BUNDLE_TYPE = "type.googleapis.com/meshca.v1.TrustBundle"
RENEWAL_TYPE = "type.googleapis.com/meshca.v1.RenewalDirective"

VALIDATOR_SECRET = "ALL"  # noqa: S105  # a resource's name; SPIRE's agents use the same
RENEWAL = "renewal"

_VALIDATOR = "envoy.tls.cert_validator.spiffe"


@dataclass(frozen=True, slots=True)
class RenewalWindow:
    """Certificates of `issuer_ids` are to be replaced from `start` on, spread over `seconds`."""

    issuer_ids: tuple[str, ...] = ()
    start: datetime | None = None
    seconds: int = 0

    def __post_init__(self) -> None:
        if self.issuer_ids and (self.start is None or self.seconds <= 0):
            raise internal("a renewal window needs a start and a length of at least a second")


NO_RENEWAL = RenewalWindow()


def trust_snapshot(
    own: TrustBundle, federated: Mapping[TrustDomain, TrustBundle] | None = None, renewal: RenewalWindow = NO_RENEWAL
) -> Snapshot:
    """All that the server's hub serves: Secrets that trust our own domain (`ROOTCA` and its id), each foreign one (its
    id) and all of them by name (`ALL`); a `meshca.v1.TrustBundle` of each domain under its id; the renewal directive.

    Raises INTERNAL where our own domain is among the federated ones, or one stands under a name that is not its own:
    its roots would vouch for another domain.
    """
    foreign = dict(federated or {})
    for trust_domain, bundle in foreign.items():
        if trust_domain == own.trust_domain or bundle.trust_domain != trust_domain:
            raise internal(f"the bundle of {bundle.trust_domain} is federated as that of {trust_domain}")
    bundles = (own, *(foreign[name] for name in sorted(foreign, key=str)))
    trust = [*bundle_secrets(own), *(bundle_secrets(bundle)[1] for bundle in bundles[1:]), _validator(bundles)]
    return Snapshot(
        {
            SECRET_TYPE: {resource.name: resource for resource in trust},
            BUNDLE_TYPE: {str(bundle.trust_domain.id): _bundle(bundle) for bundle in bundles},
            RENEWAL_TYPE: {RENEWAL: _renewal(renewal)},
        }
    )


def trust_names(trust_domain: TrustDomain) -> frozenset[tuple[str, str]]:
    """The resources (type URL, name) that carry the trust bundle of our own domain, whichever a peer prefers."""
    own = str(trust_domain.id)
    return frozenset({(BUNDLE_TYPE, own), *((SECRET_TYPE, name) for name in (TRUST_SECRET, own, VALIDATOR_SECRET))})


def bundle_message(bundle: TrustBundle) -> certificates_pb2.TrustBundle:
    """A trust bundle as its message."""
    return certificates_pb2.TrustBundle(
        trust_domain=bundle.trust_domain.name,
        x509_authorities=bundle.x509_authorities,
        sequence=bundle.sequence,
        refresh_hint_seconds=bundle.refresh_hint,
        revocation_lists=[
            certificates_pb2.RevocationList(crl=each.crl, issuers=each.issuers) for each in bundle.revocation_lists
        ],
    )


def _validator(bundles: tuple[TrustBundle, ...]) -> Resource:
    """For Envoy's SPIFFE validator, which trusts the roots of each domain for the ids of that domain alone. It takes no
    notice of revocation lists, so it gets none: who uses it learns of a revocation when a certificate ends."""
    config = SPIFFECertValidatorConfig(
        trust_domains=[
            SPIFFECertValidatorConfig.TrustDomain(
                name=bundle.trust_domain.name, trust_bundle=DataSource(inline_bytes=bundle.pem.encode("ascii"))
            )
            for bundle in bundles
        ]
    )
    packed = AnyMessage()
    packed.Pack(config, deterministic=True)
    validator = TypedExtensionConfig(name=_VALIDATOR, typed_config=packed)
    trust = CertificateValidationContext(custom_validator_config=validator)
    return _resource(VALIDATOR_SECRET, Secret(name=VALIDATOR_SECRET, validation_context=trust))


def _bundle(bundle: TrustBundle) -> Resource:
    return _resource(str(bundle.trust_domain.id), bundle_message(bundle))


def _renewal(window: RenewalWindow) -> Resource:
    """Without issuers, the directive that tells to replace nothing."""
    directive = discovery_pb2.RenewalDirective()
    if window.issuer_ids and window.start is not None:
        directive.issuer_ids.extend(sorted(window.issuer_ids))
        directive.window_start = int(window.start.timestamp())
        directive.window_seconds = window.seconds
    return _resource(RENEWAL, directive)


def _resource(name: str, message: Message) -> Resource:
    body = message.SerializeToString(deterministic=True)
    return Resource(name, content_version(name.encode(), body), body)
