-- A small shop, and what happens in it. Every function is one transaction of the demo's load.

create type order_status as enum ('new', 'paid', 'shipped', 'delivered', 'cancelled');

create table customers (
    id         bigint generated always as identity primary key,
    name       text        not null,
    email      text        not null unique,
    city       text        not null,
    joined_at  timestamptz not null default now()
);

create table products (
    id         int generated always as identity primary key,
    name       text           not null,
    price      numeric(10, 2) not null,
    stock      int            not null,
    tags       text[]         not null default '{}'
);

create table orders (
    id          bigint generated always as identity primary key,
    customer_id bigint         not null references customers,
    status      order_status   not null default 'new',
    total       numeric(12, 2) not null default 0,
    shipping    jsonb,
    created_at  timestamptz    not null default now()
);
-- So that events of orders have the whole old row, too, and name the columns that changed.
alter table orders replica identity full;

create table order_items (
    order_id   bigint         not null references orders on delete cascade,
    line       int            not null,
    product_id int            not null references products,
    quantity   int            not null,
    price      numeric(10, 2) not null,
    primary key (order_id, line)
);

-- Without a primary key: only its inserts and truncates can be captured.
create table page_views (
    path        text        not null,
    customer_id bigint,
    at          timestamptz not null default now()
);

insert into products (name, price, stock, tags)
select color || ' ' || thing, round((5 + random() * 95)::numeric, 2), 500, array[lower(color), lower(thing)]
from unnest(array['Red', 'Green', 'Blue', 'White', 'Black']) color,
     unnest(array['Kettle', 'Teapot', 'Mug', 'Bowl', 'Plate', 'Lamp', 'Chair', 'Shelf']) thing;

insert into customers (name, email, city)
select first || ' ' || last, lower(first || '.' || last || '@example.com'), city
from unnest(array['Ada', 'Grace', 'Edsger', 'Barbara', 'Donald', 'Frances', 'Alan', 'Margaret']) first,
     unnest(array['Miller', 'Weber', 'Rossi', 'Novak', 'Silva', 'Tanaka']) last,
     lateral (select (array['Lisbon', 'Oslo', 'Kyoto', 'Quito', 'Turin', 'Accra'])[1 + floor(random() * 6)::int]
              where last is not null) c(city);

create schema demo;

create function demo.customer() returns bigint language sql volatile as
    'select id from customers order by random() limit 1';

create function demo.view_pages() returns void language sql as $$
    insert into page_views (path, customer_id)
    select '/products/' || id, case when random() < 0.5 then demo.customer() end
    from products order by random() limit 1 + floor(random() * 3)::int
$$;

create function demo.place_order() returns void language plpgsql as $$
declare
    placed bigint;
begin
    insert into orders (customer_id) values (demo.customer()) returning id into placed;
    insert into order_items (order_id, line, product_id, quantity, price)
    select placed, row_number() over (), id, 1 + floor(random() * 3)::int, price
    from (select id, price from products where stock > 3 order by random() limit 1 + floor(random() * 4)::int) p;
    update products set stock = stock - quantity from order_items where order_id = placed and product_id = products.id;
    update orders set total = (select coalesce(sum(quantity * price), 0) from order_items where order_id = placed)
    where id = placed;
end
$$;

create function demo.advance_order() returns void language plpgsql as $$
declare
    advanced orders;
begin
    update orders
    set status = case status when 'new' then 'paid' when 'paid' then 'shipped' else 'delivered' end::order_status,
        shipping = case status when 'paid' then jsonb_build_object('carrier', 'Pigeon Post', 'parcel', gen_random_uuid())
                               else shipping end
    where id = (select id from orders where status in ('new', 'paid', 'shipped') order by random() limit 1)
    returning * into advanced;
    if advanced.status = 'shipped' then
        perform rowcast.publish('orders.shipped', jsonb_build_object('order', advanced.id, 'shipping', advanced.shipping));
    end if;
end
$$;

create function demo.cancel_order() returns void language plpgsql as $$
declare
    cancelled bigint;
begin
    update orders set status = 'cancelled'
    where id = (select id from orders where status = 'new' order by random() limit 1) returning id into cancelled;
    update products set stock = stock + quantity from order_items where order_id = cancelled and product_id = products.id;
end
$$;

create function demo.move_house() returns void language sql as $$
    update customers set city = (array['Lisbon', 'Oslo', 'Kyoto', 'Quito', 'Turin', 'Accra'])[1 + floor(random() * 6)::int]
    where id = demo.customer()
$$;

create function demo.welcome_customer() returns void language sql as $$
    insert into customers (name, email, city)
    select 'Guest ' || n, 'guest.' || n || '@example.com', 'Oslo' from (select floor(random() * 1e9)::bigint) g(n)
    on conflict do nothing
$$;

create function demo.change_prices() returns void language sql as $$
    update products set price = round(price * (0.9 + random() * 0.2)::numeric, 2) + 0.01, stock = stock + 100
    where id % 8 = floor(random() * 8)::int
$$;

-- Keeps the shop small, however long the demo runs.
create function demo.clean_up() returns void language plpgsql as $$
begin
    delete from orders where id in (
        select id from orders where status in ('delivered', 'cancelled') order by id limit 10);
    delete from customers c
    where name like 'Guest %' and not exists (select from orders where customer_id = c.id) and random() < 0.2;
    if (select count(*) from page_views) > 2000 then
        truncate page_views;
    end if;
end
$$;
