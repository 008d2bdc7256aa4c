"""Signs each of Schemathesis's requests as Shopify would, over the bytes that go out.

It must never sign what a check has stripped of its proof on purpose: such requests come without this, and must be refused.
"""

import base64
import hashlib
import hmac
import json
import os
import time
import uuid
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import requests
import schemathesis
from schemathesis.core.failures import MalformedJson
from schemathesis.generation import GenerationMode
from schemathesis.openapi.checks import RejectedPositiveData

HOUSE = json.loads(os.environ["GATEHOUSE_UNDER_TEST"])
SECRET = HOUSE["client_secret"].encode()


def mac(message: bytes) -> bytes:
    return hmac.new(SECRET, message, hashlib.sha256).digest()


def id_token(subject: str) -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    now, shop = int(time.time()), HOUSE["shop"]
    claims = {
        "iss": f"https://{shop}/admin", "dest": f"https://{shop}", "aud": HOUSE["client_id"], "sub": subject,
        "exp": now + 60, "nbf": now, "iat": now, "jti": str(uuid.uuid4()), "sid": "0" * 64,
    }
    message = ".".join(part(json.dumps(each).encode()) for each in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{message}.{part(mac(message.encode()))}"


class SignedByShopify(requests.auth.AuthBase):
    """By the address, since each surface has its own proof."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        address = urlsplit(request.url)
        if address.path.startswith(("/flow/", "/fulfillment/")):
            body = request.body or b""
            body = body.encode() if isinstance(body, str) else body
            request.headers["X-Shopify-Hmac-Sha256"] = base64.b64encode(mac(body)).decode()
        elif address.path.startswith("/proxy"):
            request.url = urlunsplit(address._replace(query=self.proxied(address.query)))
        else:
            customers = address.path in ("/ext/checkout", "/ext/customer-account")
            subject = "gid://shopify/Customer/1" if customers else "7"
            request.headers["Authorization"] = f"Bearer {id_token(subject)}"
        return request

    @staticmethod
    def proxied(query: str) -> str:
        ours = {
            "shop": HOUSE["shop"], "timestamp": str(int(time.time())), "path_prefix": "/apps/gatehouse",
            "logged_in_customer_id": "1",
        }
        pairs = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] not in (*ours, "signature")]
        pairs += ours.items()
        joined: dict[str, list[str]] = {}
        for name, value in pairs:
            joined.setdefault(name, []).append(value)
        message = "".join(sorted(f"{name}={','.join(values)}" for name, values in joined.items()))
        return urlencode([*pairs, ("signature", mac(message.encode()).hex())])


schemathesis.auth.set_from_requests(SignedByShopify())


@schemathesis.hook
def before_call(context, case, kwargs) -> None:
    """A request that is meant to be taken comes from a shop that has the app."""
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    if "X-Shopify-Shop-Domain" in (case.headers or {}):
        case.headers["X-Shopify-Shop-Domain"] = HOUSE["shop"]
    if isinstance(case.body, dict) and isinstance(case.body.get("shopify_domain"), str):
        case.body["shopify_domain"] = HOUSE["shop"]


# What no schema can state: which cursors this API has given, how long a file is, what this deployment is configured for,
# what Shopify thinks of a change, and that two parts of a request agree.
BEYOND_SCHEMA = {
    "`cursor` is not one that this list has given.",
    "`Range` is not a part of the file.",
    "`scopes` holds one that the app is not configured for.",
    "`scopes` holds a required one, which cannot be given back.",
    "Shopify refused the change as it stands.",
    "The run is of another action than this address.",
}


@schemathesis.hook
def filter_failure(context, failure, case, response) -> bool:
    if isinstance(failure, RejectedPositiveData):
        return response.json().get("detail") not in BEYOND_SCHEMA
    # The type is that of the whole file (RFC 9110, 15.3.7); a part of it is no JSON by itself.
    if isinstance(failure, MalformedJson):
        return response.status_code != 206
    return True
