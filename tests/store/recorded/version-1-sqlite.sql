BEGIN TRANSACTION;
CREATE TABLE deltamem_api_keys (
	id VARCHAR(64) NOT NULL, 
	tenant VARCHAR(128) NOT NULL, 
	label TEXT, 
	hint VARCHAR(16) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	requests_per_minute INTEGER, 
	tokens_per_minute INTEGER, 
	request_bytes INTEGER, 
	created DATETIME NOT NULL, 
	last_used DATETIME, 
	revoked DATETIME, 
	PRIMARY KEY (id), 
	UNIQUE (digest)
);
INSERT INTO "deltamem_api_keys" VALUES('key_9042ec765fc9','acme','laptop','dm_dxsG','8d0d8625772a4e82e5e57535ce7128199c6c870a47dd7c18189dcd6634a77fb0',60,NULL,1000,'2026-11-29 07:03:05.560771',NULL,NULL);
CREATE TABLE deltamem_messages (
	tenant VARCHAR(128) NOT NULL, 
	session VARCHAR(128) NOT NULL, 
	position INTEGER NOT NULL, 
	previous INTEGER, 
	version INTEGER NOT NULL, 
	created DATETIME NOT NULL, 
	key_id VARCHAR(64), 
	body BLOB NOT NULL, 
	PRIMARY KEY (tenant, session, position), 
	FOREIGN KEY(tenant, session) REFERENCES deltamem_sessions (tenant, session) ON DELETE CASCADE
);
INSERT INTO "deltamem_messages" VALUES('acme','ravi',1,NULL,2,'2026-11-29 07:03:05.518525',NULL,X'7B22726F6C65223A202275736572222C2022636F6E74656E74223A202249206C69766520696E204C6973626F6E2E227D');
CREATE TABLE deltamem_schema (
	version INTEGER NOT NULL
);
INSERT INTO "deltamem_schema" VALUES(1);
CREATE TABLE deltamem_sessions (
	tenant VARCHAR(128) NOT NULL, 
	session VARCHAR(128) NOT NULL, 
	head INTEGER NOT NULL, 
	positions INTEGER NOT NULL, 
	label TEXT, 
	label_folded TEXT, 
	frozen BOOLEAN NOT NULL, 
	created DATETIME NOT NULL, 
	updated DATETIME NOT NULL, 
	expires DATETIME, 
	origin_session VARCHAR(128), 
	origin_version INTEGER, 
	PRIMARY KEY (tenant, session)
);
INSERT INTO "deltamem_sessions" VALUES('acme','ravi',2,1,'Ravi, support','ravi, support',0,'2026-11-29 07:03:05.403686','2026-11-29 07:03:05.518525',NULL,NULL,NULL);
CREATE TABLE deltamem_versions (
	tenant VARCHAR(128) NOT NULL, 
	session VARCHAR(128) NOT NULL, 
	number INTEGER NOT NULL, 
	parent INTEGER, 
	origin INTEGER, 
	kind VARCHAR(32) NOT NULL, 
	tokens BIGINT NOT NULL, 
	fingerprint VARCHAR(128) NOT NULL, 
	tail INTEGER, 
	created DATETIME NOT NULL, 
	key_id VARCHAR(64), 
	state BLOB NOT NULL, 
	PRIMARY KEY (tenant, session, number), 
	FOREIGN KEY(tenant, session) REFERENCES deltamem_sessions (tenant, session) ON DELETE CASCADE
);
INSERT INTO "deltamem_versions" VALUES('acme','ravi',1,NULL,NULL,'create',0,'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',NULL,'2026-11-29 07:03:05.403686',NULL,X'61206D656D6F7279');
INSERT INTO "deltamem_versions" VALUES('acme','ravi',2,1,NULL,'turn',5,'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',1,'2026-11-29 07:03:05.518525',NULL,X'616E6F74686572');
CREATE INDEX deltamem_sessions_expires ON deltamem_sessions (expires);
CREATE INDEX deltamem_sessions_updated ON deltamem_sessions (tenant, updated, session);
CREATE INDEX deltamem_sessions_created ON deltamem_sessions (tenant, created, session);
CREATE INDEX ix_deltamem_api_keys_tenant ON deltamem_api_keys (tenant);
CREATE INDEX deltamem_versions_key ON deltamem_versions (key_id);
CREATE INDEX deltamem_messages_key ON deltamem_messages (key_id);
COMMIT;
