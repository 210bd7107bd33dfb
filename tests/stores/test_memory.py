"""The stores in memory keep the contracts."""

from __future__ import annotations

import pytest

from meshca.stores.memory import (
    MemoryAuthorityStore,
    MemoryEvidenceStore,
    MemoryJoinTokenStore,
    MemoryLedger,
    MemoryRevocationStore,
)
from tests.contracts.authority_store import AuthorityStoreContract
from tests.contracts.evidence_store import EvidenceStoreContract
from tests.contracts.join_token_store import JoinTokenStoreContract
from tests.contracts.ledger import LedgerContract
from tests.contracts.revocation_store import RevocationStoreContract


class TestMemoryLedger(LedgerContract):
    @pytest.fixture
    def ledger(self) -> MemoryLedger:
        return MemoryLedger()


class TestMemoryEvidenceStore(EvidenceStoreContract):
    @pytest.fixture
    def evidence(self) -> MemoryEvidenceStore:
        return MemoryEvidenceStore()


class TestMemoryAuthorityStore(AuthorityStoreContract):
    @pytest.fixture
    def authorities(self) -> MemoryAuthorityStore:
        return MemoryAuthorityStore()


class TestMemoryRevocationStore(RevocationStoreContract):
    @pytest.fixture
    def revocations(self) -> MemoryRevocationStore:
        return MemoryRevocationStore()


class TestMemoryJoinTokenStore(JoinTokenStoreContract):
    @pytest.fixture
    def join_tokens(self) -> MemoryJoinTokenStore:
        return MemoryJoinTokenStore()
