BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE authority_ring (
	id INTEGER NOT NULL, 
	revision BIGINT NOT NULL, 
	document TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "authority_ring" VALUES(1,2,'{"format": 1, "trust_domain": "example.org", "sequence": 3, "authorities": [{"id": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "kind": "root", "state": "active", "certificate": "MAMCAQE=", "chain": [], "issuer_id": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "key_id": "root-1", "not_before": 1767268800, "not_after": 2082628800, "bundle_sequence": 2, "last_leaf_not_after": null}, {"id": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "kind": "issuer", "state": "old", "certificate": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJTVFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn+AgYKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6ChoqOkpaanqKmqq6ytrq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g4eLj5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7/P3+/w==", "chain": ["MAA=", "/w=="], "issuer_id": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "key_id": "issuer-1", "not_before": 1767268800, "not_after": 2082628800, "bundle_sequence": 0, "last_leaf_not_after": 1767355200}]}');
CREATE TABLE certificates (
	id INTEGER NOT NULL, 
	serial TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	spiffe_id TEXT NOT NULL, 
	dns_names TEXT NOT NULL, 
	caller_id TEXT NOT NULL, 
	method TEXT NOT NULL, 
	attested TEXT NOT NULL, 
	key_fingerprint TEXT NOT NULL, 
	issuer_id TEXT NOT NULL, 
	not_before BIGINT NOT NULL, 
	not_after BIGINT NOT NULL, 
	bundle_sequence BIGINT NOT NULL, 
	recorded_at BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "certificates" VALUES(1,'00000000000000000000000000000001','leaf','spiffe://example.org/ns/shop/sa/cart','[]','spiffe://example.org/ns/shop/sa/cart','svid','mtls','0000000000000000000000000000000000000000000000000000000000000001','abababababababababababababababababababab',1767268741,1767272401,1,1767268801);
INSERT INTO "certificates" VALUES(2,'00000000000000000000000000000002','leaf','spiffe://example.org/ns/shop/sa/cart','["a.example.org"]','spiffe://example.org/ns/shop/sa/cart','svid','mtls','0000000000000000000000000000000000000000000000000000000000000002','abababababababababababababababababababab',1767268742,1767272402,1,1767268802);
INSERT INTO "certificates" VALUES(3,'00000000000000000000000000000003','leaf','spiffe://example.org/ns/shop/sa/cart','[]','spiffe://example.org/ns/shop/sa/cart','svid','mtls','0000000000000000000000000000000000000000000000000000000000000003','abababababababababababababababababababab',1767268743,1767272403,1,1767268803);
CREATE TABLE join_tokens (
	token_hash TEXT NOT NULL, 
	spiffe_id TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	expires_at BIGINT NOT NULL, 
	used_at BIGINT, 
	PRIMARY KEY (token_hash)
);
INSERT INTO "join_tokens" VALUES('7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed','spiffe://example.org/agent/one',1767268800,1767269400,NULL);
CREATE TABLE meta (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('application','meshca');
CREATE UNIQUE INDEX ix_certificates_serial ON certificates (serial);
CREATE INDEX ix_certificates_spiffe_id_id ON certificates (spiffe_id, id);
CREATE INDEX ix_certificates_not_after ON certificates (not_after);
CREATE INDEX ix_certificates_recorded_at ON certificates (recorded_at);
CREATE INDEX ix_join_tokens_expires_at ON join_tokens (expires_at);
COMMIT;
