CREATE TABLE public.deltamem_api_keys (
    id character varying(64) NOT NULL,
    tenant character varying(128) NOT NULL COLLATE pg_catalog."C",
    label text,
    hint character varying(16) NOT NULL,
    digest character varying(64) NOT NULL,
    requests_per_minute integer,
    tokens_per_minute integer,
    request_bytes integer,
    created timestamp without time zone NOT NULL,
    last_used timestamp without time zone,
    revoked timestamp without time zone
);
CREATE TABLE public.deltamem_messages (
    tenant character varying(128) NOT NULL COLLATE pg_catalog."C",
    session character varying(128) NOT NULL COLLATE pg_catalog."C",
    "position" integer NOT NULL,
    previous integer,
    version integer NOT NULL,
    created timestamp without time zone NOT NULL,
    key_id character varying(64),
    body bytea NOT NULL
);
CREATE TABLE public.deltamem_schema (
    version integer NOT NULL
);
CREATE TABLE public.deltamem_sessions (
    tenant character varying(128) NOT NULL COLLATE pg_catalog."C",
    session character varying(128) NOT NULL COLLATE pg_catalog."C",
    head integer NOT NULL,
    positions integer NOT NULL,
    label text,
    label_folded text,
    frozen boolean NOT NULL,
    created timestamp without time zone NOT NULL,
    updated timestamp without time zone NOT NULL,
    expires timestamp without time zone,
    origin_session character varying(128) COLLATE pg_catalog."C",
    origin_version integer
);
CREATE TABLE public.deltamem_versions (
    tenant character varying(128) NOT NULL COLLATE pg_catalog."C",
    session character varying(128) NOT NULL COLLATE pg_catalog."C",
    number integer NOT NULL,
    parent integer,
    origin integer,
    kind character varying(32) NOT NULL,
    tokens bigint NOT NULL,
    fingerprint character varying(128) NOT NULL,
    tail integer,
    created timestamp without time zone NOT NULL,
    key_id character varying(64),
    state bytea NOT NULL
);
INSERT INTO public.deltamem_api_keys VALUES ('key_087314b6a401', 'acme', 'laptop', 'dm_by8-', 'bd8069f3ded68eb189187938d630fba7e6f178437dd4c72f86549dbfd24c0aef', 60, NULL, 1000, '2026-11-29 07:03:13.397437', NULL, NULL);
INSERT INTO public.deltamem_messages VALUES ('acme', 'ravi', 1, NULL, 2, '2026-11-29 07:03:13.293572', NULL, '\x7b22726f6c65223a202275736572222c2022636f6e74656e74223a202249206c69766520696e204c6973626f6e2e227d');
INSERT INTO public.deltamem_schema VALUES (1);
INSERT INTO public.deltamem_sessions VALUES ('acme', 'ravi', 2, 1, 'Ravi, support', 'ravi, support', false, '2026-11-29 07:03:12.985516', '2026-11-29 07:03:13.293572', NULL, NULL, NULL);
INSERT INTO public.deltamem_versions VALUES ('acme', 'ravi', 1, NULL, NULL, 'create', 0, 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', NULL, '2026-11-29 07:03:12.985516', NULL, '\x61206d656d6f7279');
INSERT INTO public.deltamem_versions VALUES ('acme', 'ravi', 2, 1, NULL, 'turn', 5, 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 1, '2026-11-29 07:03:13.293572', NULL, '\x616e6f74686572');
ALTER TABLE ONLY public.deltamem_api_keys
    ADD CONSTRAINT deltamem_api_keys_digest_key UNIQUE (digest);
ALTER TABLE ONLY public.deltamem_api_keys
    ADD CONSTRAINT deltamem_api_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.deltamem_messages
    ADD CONSTRAINT deltamem_messages_pkey PRIMARY KEY (tenant, session, "position");
ALTER TABLE ONLY public.deltamem_sessions
    ADD CONSTRAINT deltamem_sessions_pkey PRIMARY KEY (tenant, session);
ALTER TABLE ONLY public.deltamem_versions
    ADD CONSTRAINT deltamem_versions_pkey PRIMARY KEY (tenant, session, number);
CREATE INDEX deltamem_messages_key ON public.deltamem_messages USING btree (key_id);
CREATE INDEX deltamem_sessions_created ON public.deltamem_sessions USING btree (tenant, created, session);
CREATE INDEX deltamem_sessions_expires ON public.deltamem_sessions USING btree (expires);
CREATE INDEX deltamem_sessions_updated ON public.deltamem_sessions USING btree (tenant, updated, session);
CREATE INDEX deltamem_versions_key ON public.deltamem_versions USING btree (key_id);
CREATE INDEX ix_deltamem_api_keys_tenant ON public.deltamem_api_keys USING btree (tenant);
ALTER TABLE ONLY public.deltamem_messages
    ADD CONSTRAINT deltamem_messages_tenant_session_fkey FOREIGN KEY (tenant, session) REFERENCES public.deltamem_sessions(tenant, session) ON DELETE CASCADE;
ALTER TABLE ONLY public.deltamem_versions
    ADD CONSTRAINT deltamem_versions_tenant_session_fkey FOREIGN KEY (tenant, session) REFERENCES public.deltamem_sessions(tenant, session) ON DELETE CASCADE;
