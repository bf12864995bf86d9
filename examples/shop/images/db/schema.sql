create table visits (node text primary key, count bigint not null);
grant select, insert, update on visits to shop;
